"""The engine: model files, tokenizer, decoder, cache, scheduler, sampling, the step loop."""

import sgen.kernels  # noqa: F401 - sets how torch's threads wait, before torch is imported
