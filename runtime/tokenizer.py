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
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import numpy as np
import tokenizers
from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers

from sgen.errors import ModelFileError, SgenError, UnsupportedModelError
from sgen.grammars.vocabulary import Vocabulary
from sgen.runtime.folder import read_json

T = TypeVar("T", str, int, bool)

_MAX_PIECE = 512  # characters of a token; building merges takes the square of it
_LONG = 1 << 12  # characters of a text; other threads run while a batch is encoded, so it is one
_MAX_JSON = 1 << 22  # bytes of a folder's side file
_NORMAL, _CONTROL, _USER_DEFINED, _BYTE = 1, (2, 3), 4, 6  # GGUF token types; 2 is "unknown"

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
        self._normalizer = tokenizer.normalizer
        unknown = self.special_tokens.get("unk_token")  # what any odd character may become
        self._special_ids = {i for i, name in special.items() if name != unknown}
        by_name = {i for i, name in special.items() if name in END_NAMES}
        ends = sorted({i for i in eos_ids if 0 <= i < vocab_size} | by_name)
        plain = {i: t.content for i, t in added.items() if not t.special and i not in ends}
        self.vocabulary = Vocabulary(
            _token_bytes(tokenizer, vocab_size, special.keys() | set(ends), plain),
            ends,
            {i: name for i, name in special.items() if i < vocab_size and name != unknown},
            partial(self.encode, inner=True),
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
        which = (self._inner if inner else self._start)[special]
        if len(text) < _LONG:
            ids: list[int] = which.encode(text, add_special_tokens=False).ids
        else:
            ids = which.encode_batch_fast([text], add_special_tokens=False)[0].ids
        return ids

    @property
    def normalizes(self) -> bool:
        """Whether a text may be changed before it is cut into tokens."""
        return self._normalizer is not None

    def has_special(self, text: str) -> bool:
        """Whether a special token is spelled out in the text, as it is or once normalized."""
        if self._special_pattern.search(text) is not None:
            return True
        if self._normalizer is None:
            return False
        return self._special_pattern.search(self._normalizer.normalize_str(text)) is not None

    def is_special(self, token: int) -> bool:
        """Whether a token is special; the one for unknown characters does not count."""
        return token in self._special_ids

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
    hidden = set(special)
    byte_of = dict.fromkeys(range(0x100), 0x100) | {ord(c): b for c, b in _byte_of_char().items()}
    out = [b""] * size
    for token, i in tokenizer.get_vocab(with_added_tokens=True).items():
        if i >= size or i in hidden:
            continue
        if i in plain:
            out[i] = plain[i].encode()
        elif byte_level:
            try:
                out[i] = token.translate(byte_of).encode("latin-1")
            except UnicodeEncodeError:  # characters that stand for no byte
                out[i] = token.encode()
        elif re.fullmatch(r"<0x[0-9A-Fa-f]{2}>", token):
            out[i] = bytes([int(token[3:5], 16)])
        else:
            out[i] = token.replace("\u2581", " ").encode()
    return out


# --- GGUF --------------------------------------------------------------------------------------


class _Keys:
    """The tokenizer's metadata, each value of the type that its key has by the specification."""

    def __init__(self, metadata: Mapping[str, Any], path: str) -> None:
        self.metadata, self.path = metadata, path

    def fail(self, key: str, message: str) -> NoReturn:
        raise ModelFileError(message, path=self.path, where=f"tokenizer.{key}")

    def get(self, key: str, kind: type[T]) -> T | None:
        """A string, integer or boolean; None where the key is missing."""
        value = self.metadata.get(f"tokenizer.{key}")
        if value is not None and type(value) is not kind:  # a boolean is no integer here
            self.fail(key, f"must be of type {kind.__name__}, is {type(value).__name__}")
        return value

    def strings(self, key: str) -> list[str]:
        value = self.metadata.get(f"tokenizer.{key}")
        if not isinstance(value, list) or not all(isinstance(x, str) for x in value):
            self.fail(key, "an array of strings is missing")
        return value

    def numbers(self, key: str, count: int, kinds: str) -> list[Any] | None:
        """An array of finite numbers, one for each token; `kinds` as in numpy's `dtype.kind`."""
        value = self.metadata.get(f"tokenizer.{key}")
        if value is None:
            return None
        try:
            array = np.asarray(value)
        except (ValueError, OverflowError):
            self.fail(key, "is not an array of numbers")
        if array.dtype.kind not in kinds or array.shape != (count,):
            self.fail(key, f"must have one number for each of the {count} tokens")
        if not np.isfinite(array).all():
            self.fail(key, "has a number that is not finite")
        numbers: list[Any] = array.tolist()
        return numbers


def tokenizer_from_gguf(metadata: Mapping[str, Any], vocab_size: int, path: str) -> Tokenizer:
    """Build the tokenizer that a GGUF file describes.

    Kinds: byte-level BPE (`gpt2`) and SentencePiece BPE (`llama`); others are refused by name.
    ModelFileError names the key that is wrong.
    """
    keys = _Keys(metadata, path)
    kind = keys.get("ggml.model", str)
    if kind is None:
        keys.fail("ggml.model", "the key is missing")
    if kind not in ("gpt2", "llama"):
        raise UnsupportedModelError(
            f"{path}: tokenizer kind {kind[:80]!r} is not supported",
            hint="sgen reads byte-level BPE (gpt2) and SentencePiece BPE (llama) from GGUF files",
        )
    tokens = _tokens(keys, vocab_size)
    types = keys.numbers("ggml.token_type", len(tokens), "iu") or [_NORMAL] * len(tokens)

    def token_id(name: str) -> int | None:
        value = keys.get(f"ggml.{name}_token_id", int)
        return value if value is not None and 0 <= value < len(tokens) else None

    named = {n: token_id(n) for n in ("bos", "eos", "eot", "padding", "unknown")}
    special = {"bos": "bos", "eos": "eos", "padding": "pad", "unknown": "unk"}
    template = keys.get("chat_template", str)
    # SentencePiece files that say nothing start with BOS, as their models were trained.
    add_bos = keys.get("ggml.add_bos_token", bool)
    add_bos = (kind == "llama" if add_bos is None else add_bos) and named["bos"] is not None
    try:
        if kind == "gpt2":
            built = _byte_level_bpe(keys, tokens)
        else:
            built = _sentencepiece_bpe(keys, tokens, types, named["unknown"])
        control = [t for t, k in zip(tokens, types, strict=True) if k in _CONTROL]
        defined = [t for t, k in zip(tokens, types, strict=True) if k == _USER_DEFINED]
        built.add_tokens([AddedToken(t, normalized=False, special=False) for t in defined])
        built.add_special_tokens([AddedToken(t, normalized=False, special=True) for t in control])
    except SgenError:
        raise
    except Exception as e:  # the library raises bare Exceptions
        keys.fail("ggml.tokens", f"no tokenizer can be made of them: {e}")
    return Tokenizer(
        built,
        vocab_size=vocab_size,
        eos_ids=[i for i in (named["eos"], named["eot"]) if i is not None],
        bos_id=named["bos"],
        add_bos=add_bos,
        chat_template=template,
        special_tokens={
            f"{short}_token": tokens[i]
            for n, short in special.items()
            if (i := named[n]) is not None
        },
    )


def _tokens(keys: _Keys, vocab_size: int) -> list[str]:
    """The token list: not too many, none overlong, none twice."""
    key = "ggml.tokens"
    tokens = keys.strings(key)
    if not 0 < len(tokens) <= vocab_size:
        keys.fail(key, f"{len(tokens)} tokens for a vocabulary of {vocab_size}")
    seen: dict[str, int] = {}
    for i, token in enumerate(tokens):
        if len(token) > _MAX_PIECE:
            keys.fail(key, f"token {i} is longer than {_MAX_PIECE} characters")
        if seen.setdefault(token, i) != i:
            keys.fail(key, f"tokens {seen[token]} and {i} are both {token[:80]!r}")
    return tokens


def _byte_level_bpe(keys: _Keys, tokens: list[str]) -> tokenizers.Tokenizer:
    known = set(tokens)
    merges = []
    for line in keys.strings("ggml.merges"):
        left, _, right = line.partition(" ")
        if left not in known or right not in known or left + right not in known:
            keys.fail("ggml.merges", f"merge {line[:80]!r} names no tokens")
        merges.append((left, right))
    built = tokenizers.Tokenizer(models.BPE(_ids(tokens), merges))
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    match keys.get("ggml.pre", str):
        case "smollm":
            built.pre_tokenizer = pre_tokenizers.Sequence(
                [pre_tokenizers.Digits(individual_digits=True), _gpt2_split()]
            )
        case "gpt-2" | "default" | None:
            built.pre_tokenizer = _gpt2_split()
        case "qwen2":
            built.normalizer = normalizers.NFC()
            built.pre_tokenizer = pre_tokenizers.Sequence([_split(_QWEN2), byte_level])
        case "llama-bpe" | "llama3":
            built.pre_tokenizer = pre_tokenizers.Sequence([_split(_LLAMA3), byte_level])
        case other:
            raise UnsupportedModelError(
                f"{keys.path}: pre-tokenizer {other[:80]!r} is not supported",
                hint="known: smollm, gpt-2, qwen2, llama-bpe; or use the Hugging Face folder",
            )
    built.decoder = decoders.ByteLevel()
    return built


def _gpt2_split() -> pre_tokenizers.PreTokenizer:
    return pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)


def _split(pattern: str) -> pre_tokenizers.PreTokenizer:
    return pre_tokenizers.Split(Regex(pattern), behavior="isolated")


def _sentencepiece_bpe(
    keys: _Keys, tokens: list[str], types: list[int], unknown: int | None
) -> tokenizers.Tokenizer:
    """SentencePiece BPE merges the pair whose joined piece scores best: a merge list by score.

    Control tokens and bytes are never the outcome of a merge, so no text spells them.
    """
    scores = keys.numbers("ggml.scores", len(tokens), "iuf")
    if scores is None:
        keys.fail("ggml.scores", "a score for each token is missing")
    ids = _ids(tokens)
    merges = [
        (-float(scores[i]), ids[left], ids[right], left, right)
        for i, piece in enumerate(tokens)
        if types[i] not in (*_CONTROL, _BYTE)
        for cut in range(1, len(piece))
        if (left := piece[:cut]) in ids and (right := piece[cut:]) in ids
    ]
    merges.sort()
    built = tokenizers.Tokenizer(
        models.BPE(
            ids,
            [(left, right) for *_, left, right in merges],
            unk_token=tokens[unknown or 0],
            fuse_unk=True,
            byte_fallback=True,
        )
    )
    steps: list[normalizers.Normalizer] = [normalizers.Replace(" ", "\u2581")]
    if keys.get("ggml.add_space_prefix", bool) is not False:
        steps.insert(0, normalizers.Prepend("\u2581"))
    built.normalizer = normalizers.Sequence(steps)
    return built


def _ids(tokens: list[str]) -> dict[str, int]:
    return {t: i for i, t in enumerate(tokens)}


# --- Hugging Face folders ------------------------------------------------------------------------


def tokenizer_from_folder(folder: Path, vocab_size: int) -> Tokenizer:
    """Read `tokenizer.json`, and what the files beside it say of special tokens and the template.

    A folder without `tokenizer.json` goes through transformers, which converts older formats.
    """
    source = folder / "tokenizer.json"
    config = _side_file(folder / "tokenizer_config.json")
    template = _folder_template(folder, config)
    try:
        if source.exists():
            built = tokenizers.Tokenizer.from_file(str(source))
        else:
            from transformers import AutoTokenizer

            built = AutoTokenizer.from_pretrained(folder, local_files_only=True).backend_tokenizer
        built.no_truncation()  # a file may ask for both, and a prompt would lose its end
        built.no_padding()
        largest = max(built.get_vocab(with_added_tokens=True).values(), default=-1)
        if largest >= vocab_size:
            message = f"has token {largest}, the model's vocabulary is of {vocab_size}"
            raise ModelFileError(message, path=str(source))
        return _from_built(built, folder, config, template, vocab_size)
    except SgenError:
        raise
    except Exception as e:  # the library raises bare Exceptions on broken files
        raise ModelFileError(f"the tokenizer cannot be read: {e}", path=str(source)) from e


def _from_built(
    built: tokenizers.Tokenizer,
    folder: Path,
    config: Mapping[str, Any],
    template: str | None,
    vocab_size: int,
) -> Tokenizer:
    def name(key: str) -> str | None:
        value = config.get(key)
        value = value.get("content") if isinstance(value, dict) else value
        return value if isinstance(value, str) else None

    names = {k: n for k in ("bos_token", "eos_token", "pad_token", "unk_token") if (n := name(k))}
    eos = built.token_to_id(names["eos_token"]) if "eos_token" in names else None
    bos = built.token_to_id(names["bos_token"]) if "bos_token" in names else None
    return Tokenizer(
        built,
        vocab_size=vocab_size,
        eos_ids=_folder_ends(folder, vocab_size) + ([eos] if eos is not None else []),
        bos_id=bos,
        add_bos=bos is not None and built.encode("a").ids[:1] == [bos],
        chat_template=template,
        special_tokens=names,
    )


def _folder_ends(folder: Path, vocab_size: int) -> list[int]:
    """The end tokens that generation_config.json gives, else config.json."""
    for file in (folder / "generation_config.json", folder / "config.json"):
        value = _side_file(file).get("eos_token_id")
        if value is None:
            continue
        ends = value if isinstance(value, list) else [value]
        if not all(type(i) is int and 0 <= i < vocab_size for i in ends):
            message = f"must be token ids below {vocab_size}, is {str(value)[:80]}"
            raise ModelFileError(message, path=str(file), where="eos_token_id")
        return ends
    return []


def _folder_template(folder: Path, config: Mapping[str, Any]) -> str | None:
    """The chat template: a file of its own in newer folders, an entry (or a list) in older."""
    file = folder / "chat_template.jinja"
    if file.exists():
        try:
            with file.open("rb") as opened:
                raw = opened.read(_MAX_JSON + 1)
            if len(raw) > _MAX_JSON:
                raise ValueError(f"it is longer than {_MAX_JSON} bytes")
            return raw.decode().replace("\r\n", "\n")
        except (ValueError, OSError) as e:
            raise ModelFileError(f"cannot be read: {e}", path=str(file)) from e
    template = config.get("chat_template")
    if isinstance(template, list):
        default = [t for t in template if isinstance(t, dict) and t.get("name") == "default"]
        template = default[0].get("template") if default else None
    if template is not None and not isinstance(template, str):
        path = str(folder / "tokenizer_config.json")
        raise ModelFileError("must be text, or a list of them", path=path, where="chat_template")
    return template


def _side_file(path: Path) -> dict[str, Any]:
    """A small JSON object, or {} where the file is absent."""
    return read_json(path, _MAX_JSON) if path.exists() else {}
