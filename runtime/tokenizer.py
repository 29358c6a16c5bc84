"""Text to tokens and back, through Hugging Face `tokenizers`.

- From a GGUF file the tokenizer is built out of its metadata; from a folder it is `tokenizer.json`.
- Special tokens are recognised only in text that a chat template wrote, never in text that a
  person or a program wrote: `<|im_end|>` in a user's message is eleven plain characters.
- `vocabulary.token_bytes` is what each token adds to a text, so that output is put together from
  bytes, and a grammar can walk them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers

from sgen.errors import ModelFileError, UnsupportedModelError
from sgen.grammars.vocabulary import Vocabulary

# Tokens that end a turn or a text by their name, where a file lists only one of several.
END_NAMES = frozenset(
    ["<|im_end|>", "<|endoftext|>", "<|end_of_text|>", "<|eot_id|>", "<|eom_id|>", "</s>"]
)

# How each GGUF `tokenizer.ggml.pre` splits text before merging, as in its model's tokenizer.json.
_WORDS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"
_REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_QWEN2 = _WORDS + r"\p{N}" + _REST
_LLAMA3 = _WORDS + r"\p{N}{1,3}" + _REST


class Tokenizer:
    """A tokenizer with what a model's folder or file says about its special tokens.

    `add_bos` is true where plain text starts with `bos_id`; chat templates write it themselves.
    """

    def __init__(
        self,
        tokenizer: tokenizers.Tokenizer,
        *,
        vocab_size: int,
        eos_ids: Iterable[int],
        bos_id: int | None = None,
        add_bos: bool = False,
        chat_template: str | None = None,
        special_tokens: Mapping[str, str] | None = None,
    ) -> None:
        self.bos_id, self.add_bos, self.chat_template = bos_id, add_bos, chat_template
        self.special_tokens = dict(special_tokens or {})  # bos_token, eos_token, … for templates
        added = tokenizer.get_added_tokens_decoder()
        special = {i: t.content for i, t in added.items() if t.special}
        by_name = {i for i, name in special.items() if name in END_NAMES}
        ends = sorted({i for i in eos_ids if 0 <= i < vocab_size} | by_name)
        plain = {i: t.content for i, t in added.items() if not t.special and i not in ends}
        self.vocabulary = Vocabulary(
            _token_bytes(tokenizer, vocab_size, special.keys() | set(ends), plain), ends
        )
        self._special_names = sorted(special.values(), key=len, reverse=True)
        self._special_pattern = re.compile("|".join(map(re.escape, self._special_names)) or r"(?!)")
        # Four ways to encode: special tokens recognised or not, at the start of a text or behind
        # other tokens (where a SentencePiece tokenizer must not put a space in front).
        source = tokenizer.to_str()
        self._start = {True: tokenizer, False: _plain(source)}
        inner = _without_prefix(source)
        self._inner = self._start
        if inner is not None:
            self._inner = {True: tokenizers.Tokenizer.from_str(inner), False: _plain(inner)}

    def encode(self, text: str, *, special: bool = False, inner: bool = False) -> list[int]:
        """Token ids of a text.  `special`: special tokens in it are recognised; `inner`: it
        continues other tokens."""
        which = self._inner if inner else self._start
        ids: list[int] = which[special].encode(text, add_special_tokens=False).ids
        return ids

    def has_special(self, text: str) -> bool:
        """Whether a special token is spelled out in the text."""
        return self._special_pattern.search(text) is not None

    def decode(self, ids: Sequence[int]) -> str:
        """The text of tokens; special ones add nothing, broken UTF-8 becomes U+FFFD."""
        return b"".join(self.vocabulary.token_bytes[i] for i in ids).decode(errors="replace")


def _plain(source: str) -> tokenizers.Tokenizer:
    """A tokenizer, from its JSON, that takes special tokens for plain characters."""
    copy = tokenizers.Tokenizer.from_str(source)
    copy.encode_special_tokens = True
    return copy


def _without_prefix(source: str) -> str | None:
    """A tokenizer's JSON, changed so that it puts no space in front of a text; None if it is so."""
    spec = json.loads(source)

    def clean(node: Any) -> Any:
        if isinstance(node, list):
            return [x for x in map(clean, node) if x is not None]
        if not isinstance(node, dict):
            return node
        if node.get("type") == "Prepend":
            return None
        if node.get("type") == "Metaspace":
            return {**node, "prepend_scheme": "never"}
        if node.get("type") == "ByteLevel":
            return {**node, "add_prefix_space": False}
        return {k: clean(v) for k, v in node.items()}

    changed = {part: clean(spec.get(part)) for part in ("normalizer", "pre_tokenizer")}
    if all(spec.get(part) == value for part, value in changed.items()):
        return None
    return json.dumps(spec | changed)


@lru_cache(maxsize=1)
def _byte_of_char() -> dict[str, int]:
    """The characters by which byte-level BPE writes bytes (GPT-2): printable ones stand for
    themselves, the others are moved up behind U+0100 in their order."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    moved = [b for b in range(256) if b not in set(printable)]
    return {chr(b): b for b in printable} | {chr(0x100 + i): b for i, b in enumerate(moved)}


def _token_bytes(
    tokenizer: tokenizers.Tokenizer, size: int, special: Iterable[int], plain: Mapping[int, str]
) -> list[bytes]:
    """Bytes of each token: b"" for special ones and for ids that no token has."""
    parts = (tokenizer.pre_tokenizer, tokenizer.decoder)
    byte_level = any("ByteLevel" in str(p) for p in parts)
    byte_of, hidden = _byte_of_char(), set(special)
    out = [b""] * size
    for token, i in tokenizer.get_vocab(with_added_tokens=True).items():
        if i >= size or i in hidden:
            continue
        if i in plain:
            out[i] = plain[i].encode()
        elif byte_level:
            known = all(c in byte_of for c in token)
            out[i] = bytes(byte_of[c] for c in token) if known else token.encode()
        elif re.fullmatch(r"<0x[0-9A-Fa-f]{2}>", token):
            out[i] = bytes([int(token[3:5], 16)])
        else:
            out[i] = token.replace("\u2581", " ").encode()
    return out


# --- GGUF --------------------------------------------------------------------------------------


def tokenizer_from_gguf(metadata: Mapping[str, Any], vocab_size: int, path: str) -> Tokenizer:
    """Build the tokenizer that a GGUF file describes.

    Kinds: byte-level BPE (`gpt2`) and SentencePiece BPE (`llama`); others are refused by name.
    """

    def get(key: str, kind: type | tuple[type, ...], default: Any = ...) -> Any:
        value = metadata.get(f"tokenizer.{key}", default)
        if value is ...:
            raise ModelFileError("the key is missing", path=path, where=f"tokenizer.{key}")
        if value is not None and not isinstance(value, kind):
            raise ModelFileError(
                f"unexpected type {type(value).__name__}", path=path, where=f"tokenizer.{key}"
            )
        return value

    kind = get("ggml.model", str)
    tokens = _strings(metadata, "tokenizer.ggml.tokens", path)
    types = [int(t) for t in metadata.get("tokenizer.ggml.token_type", [1] * len(tokens))]
    if len(tokens) > vocab_size or len(types) != len(tokens):
        raise ModelFileError(
            f"{len(tokens)} tokens and {len(types)} types for a vocabulary of {vocab_size}",
            path=path,
            where="tokenizer.ggml.tokens",
        )
    if kind == "gpt2":
        built = _byte_level_bpe(metadata, tokens, path)
    elif kind == "llama":
        built = _sentencepiece_bpe(metadata, tokens, path)
    else:
        raise UnsupportedModelError(
            f"{path}: tokenizer kind {kind!r} is not supported",
            hint="sgen reads byte-level BPE (gpt2) and SentencePiece BPE (llama) from GGUF files",
        )
    control = [t for t, k in zip(tokens, types, strict=True) if k in (2, 3)]
    defined = [t for t, k in zip(tokens, types, strict=True) if k == 4]
    built.add_tokens([AddedToken(t, normalized=False, special=False) for t in defined])
    built.add_special_tokens([AddedToken(t, normalized=False, special=True) for t in control])

    def token_id(name: str) -> int | None:
        value = get(f"ggml.{name}_token_id", int, None)
        return value if value is not None and 0 <= value < len(tokens) else None

    named = {n: token_id(n) for n in ("bos", "eos", "eot", "padding", "unknown")}
    special = {"bos": "bos", "eos": "eos", "padding": "pad", "unknown": "unk"}
    return Tokenizer(
        built,
        vocab_size=vocab_size,
        eos_ids=[i for i in (named["eos"], named["eot"]) if i is not None],
        bos_id=named["bos"],
        # SentencePiece files that say nothing start with BOS, as their models were trained.
        add_bos=bool(get("ggml.add_bos_token", bool, kind == "llama")) and named["bos"] is not None,
        chat_template=get("chat_template", str, None),
        special_tokens={
            f"{short}_token": tokens[i]
            for n, short in special.items()
            if (i := named[n]) is not None
        },
    )


def _strings(metadata: Mapping[str, Any], key: str, path: str) -> list[str]:
    value = metadata.get(key)
    if not isinstance(value, list) or not all(isinstance(x, str) for x in value):
        raise ModelFileError("an array of strings is missing", path=path, where=key)
    return value


def _byte_level_bpe(
    metadata: Mapping[str, Any], tokens: list[str], path: str
) -> tokenizers.Tokenizer:
    known = set(tokens)
    merges = []
    for line in _strings(metadata, "tokenizer.ggml.merges", path):
        left, _, right = line.partition(" ")
        if left not in known or right not in known or left + right not in known:
            raise ModelFileError(
                f"merge {line!r} names no tokens", path=path, where="tokenizer.ggml.merges"
            )
        merges.append((left, right))
    built = tokenizers.Tokenizer(models.BPE(_ids(tokens), merges))
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    match metadata.get("tokenizer.ggml.pre", "default"):
        case "smollm":
            built.pre_tokenizer = pre_tokenizers.Sequence(
                [pre_tokenizers.Digits(individual_digits=True), _gpt2_split()]
            )
        case "gpt-2" | "default":
            built.pre_tokenizer = _gpt2_split()
        case "qwen2":
            built.normalizer = normalizers.NFC()
            built.pre_tokenizer = pre_tokenizers.Sequence([_split(_QWEN2), byte_level])
        case "llama-bpe" | "llama3":
            built.pre_tokenizer = pre_tokenizers.Sequence([_split(_LLAMA3), byte_level])
        case other:
            raise UnsupportedModelError(
                f"{path}: pre-tokenizer {other!r} is not supported",
                hint="known: smollm, gpt-2, qwen2, llama-bpe; or use the Hugging Face folder",
            )
    built.decoder = decoders.ByteLevel()
    return built


def _gpt2_split() -> pre_tokenizers.PreTokenizer:
    return pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)


def _split(pattern: str) -> pre_tokenizers.PreTokenizer:
    return pre_tokenizers.Split(Regex(pattern), behavior="isolated")


def _sentencepiece_bpe(
    metadata: Mapping[str, Any], tokens: list[str], path: str
) -> tokenizers.Tokenizer:
    """SentencePiece BPE merges the pair whose joined piece scores best: a merge list by score."""
    scores = metadata.get("tokenizer.ggml.scores")
    if scores is None or len(scores) != len(tokens):
        raise ModelFileError(
            "a score for each token is missing", path=path, where="tokenizer.ggml.scores"
        )
    ids = _ids(tokens)
    merges = [
        (-float(scores[i]), ids[left], ids[right], left, right)
        for i, piece in enumerate(tokens)
        for cut in range(1, len(piece))
        if (left := piece[:cut]) in ids and (right := piece[cut:]) in ids
    ]
    merges.sort()
    unknown = metadata.get("tokenizer.ggml.unknown_token_id", 0)
    built = tokenizers.Tokenizer(
        models.BPE(
            ids,
            [(left, right) for *_, left, right in merges],
            unk_token=tokens[unknown] if 0 <= unknown < len(tokens) else None,
            fuse_unk=True,
            byte_fallback=True,
        )
    )
    steps: list[normalizers.Normalizer] = [normalizers.Replace(" ", "\u2581")]
    if metadata.get("tokenizer.ggml.add_space_prefix", True):
        steps.insert(0, normalizers.Prepend("\u2581"))
    built.normalizer = normalizers.Sequence(steps)
    return built


def _ids(tokens: list[str]) -> dict[str, int]:
    return {t: i for i, t in enumerate(tokens)}


# --- Hugging Face folders ------------------------------------------------------------------------


def tokenizer_from_folder(folder: Path, vocab_size: int) -> Tokenizer:
    """Read `tokenizer.json` and `tokenizer_config.json`.

    A folder without `tokenizer.json` goes through transformers, which converts older formats.
    """
    source = folder / "tokenizer.json"
    config = _read_json(folder / "tokenizer_config.json")
    try:
        if source.exists():
            built = tokenizers.Tokenizer.from_file(str(source))
        else:
            from transformers import AutoTokenizer

            built = AutoTokenizer.from_pretrained(folder, local_files_only=True).backend_tokenizer
    except Exception as e:  # the library raises bare Exceptions on broken files
        raise ModelFileError(f"the tokenizer cannot be read: {e}", path=str(source)) from e

    def name(key: str) -> str | None:
        value = config.get(key)
        value = value.get("content") if isinstance(value, dict) else value
        return value if isinstance(value, str) else None

    names = {k: n for k in ("bos_token", "eos_token", "pad_token", "unk_token") if (n := name(k))}
    ends = _read_json(folder / "generation_config.json").get("eos_token_id")
    ends = ends if isinstance(ends, list) else [ends]
    eos = built.token_to_id(names["eos_token"]) if "eos_token" in names else None
    bos = built.token_to_id(names["bos_token"]) if "bos_token" in names else None
    started = built.encode("a").ids[:1] == [bos] and bos is not None
    return Tokenizer(
        built,
        vocab_size=vocab_size,
        eos_ids=[i for i in (*ends, eos) if isinstance(i, int)],
        bos_id=bos,
        add_bos=started,
        chat_template=_folder_template(folder, config),
        special_tokens=names,
    )


def _folder_template(folder: Path, config: Mapping[str, Any]) -> str | None:
    """The chat template: a file of its own in newer folders, an entry (or a list) in older."""
    file = folder / "chat_template.jinja"
    if file.exists():
        return file.read_text(encoding="utf-8")
    template = config.get("chat_template")
    if isinstance(template, list):
        named = {t.get("name"): t.get("template") for t in template if isinstance(t, dict)}
        template = named.get("default")
    return template if isinstance(template, str) else None


def _read_json(path: Path) -> dict[str, Any]:
    """A small JSON object, or {} where the file is absent."""
    if not path.exists():
        return {}
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError) as e:
        raise ModelFileError(f"not readable as JSON: {e}", path=str(path)) from e
    if not isinstance(value, dict):
        raise ModelFileError("not a JSON object", path=str(path))
    return value
