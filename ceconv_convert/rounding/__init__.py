"""Files of less than float32: float16 and int8, with a verdict of their own."""
