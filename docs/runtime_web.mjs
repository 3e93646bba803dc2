// Run an ONNX file in ONNX Runtime Web, in Node: one line of JSON on standard output for each input on standard
// input. node runtime_web.mjs NODE_MODULES FILE SIZE …   (of the axes of an input, which is float32)
import fs from "node:fs";
import { pathToFileURL } from "node:url";

const [modules, file, ...shape] = process.argv.slice(2);
const dims = shape.map(Number), size = 4 * dims.reduce((a, b) => a * b);
const answer = (found) => fs.writeSync(1, JSON.stringify(found) + "\n");

try {
  const ort = await import(pathToFileURL(`${modules}/onnxruntime-web/dist/ort.node.min.mjs`).href);
  const session = await ort.InferenceSession.create(fs.readFileSync(file));
  for (;;) {
    const bytes = Buffer.alloc(size);
    for (let at = 0; at < size; ) {
      const count = fs.readSync(0, bytes, at, size - at);
      if (count === 0) process.exit();
      at += count;
    }
    const input = new ort.Tensor("float32", new Float32Array(bytes.buffer, bytes.byteOffset, size / 4), dims);
    const output = (await session.run({ [session.inputNames[0]]: input }))[session.outputNames[0]];
    answer({ data: [...output.data], dims: output.dims });
  }
} catch (error) {
  answer({ error: error.message });
}
