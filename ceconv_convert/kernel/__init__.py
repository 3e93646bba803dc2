"""Frozen specs and pure tensor mathematics. No ``nn.Module`` here."""
