"""Text to ids and back with a model's own `tokenizer.json` (the `tokenizers` library, imported when one is loaded)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from exo_node.errors import CheckpointError, InvalidRequest
from exo_node.models.chat_format import ChatFormat
from exo_node.models.chat_template import ChatTemplate, read_template
from exo_node.models.detokenizer import BytesDetokenizer, Detokenizer, NamingDetokenizer, WindowDetokenizer
from exo_node.models.fim import Fim, fim_of
from exo_node.models.generation_config import eos_ids
from exo_node.models.headers import optional_json
from exo_node.models.links import check_links
from exo_node.models.pieces import piece_rule
from exo_node.models.template_sandbox import TemplateSandbox
from exo_node.models.token_bound import TokenBound, part_state
from exo_node.types import ToolUse

if TYPE_CHECKING:
    import tokenizers

REMEMBERED = 8192  # tokens whose bytes are kept, about 1 MB: nearly all of a text's are among them
_GUARD = "\u263a"  # a sign that merges with nothing, as Meta's code for CodeLlama puts before a suffix


class Tokenizer:
    """A model's tokenizer. Safe to use from several threads; encoding and decoding let other Python threads run.

    `eos_ids`: every id that ends a text (generation_config.json, else config.json; and the tokenizer's own).
    `bos_id`: None where the model has none. `vocab_size`: one more than the largest id the tokenizer knows.
    """

    def __init__(
        self,
        backend: tokenizers.Tokenizer,
        *,
        special: Mapping[str, str],
        template: str | None,
        tool_template: str | None = None,
        eos_ids: frozenset[int],
        add_bos: bool,
        sandbox: TemplateSandbox | None = None,
    ) -> None:
        self._sandbox = sandbox
        self._backend = backend
        self._special_tokens = dict(special)
        self._template_source = template
        self._tool_template = tool_template
        self._templates: dict[str, ChatTemplate] = {}
        added = backend.get_added_tokens_decoder()
        self._special_ids = frozenset(i for i, token in added.items() if token.special)
        self.vocab_size: int = max([backend.get_vocab_size(with_added_tokens=True), *(i + 1 for i in added)])
        self.bos_id: int | None = self._id_of(special.get("bos_token"))
        eos = self._id_of(special.get("eos_token"))
        self.eos_ids = eos_ids | ({eos} if eos is not None else frozenset())
        self._rule = piece_rule(part_state(backend.decoder))
        self._visible = lru_cache(REMEMBERED)(self._visible_bytes)  # asked for every token of every answer
        self._bound = TokenBound(backend, self._rule)
        self._prefix = self._read_prefix(add_bos)
        if self.bos_id is None and self._prefix:
            self.bos_id = self._prefix[0]

    @classmethod
    def load(cls, path: Path, sandbox: TemplateSandbox | None = None) -> Tokenizer:
        """The tokenizer of the model folder `path`. Blocking. Raises `CheckpointError` for missing or broken files.

        `sandbox` runs its chat template; None: one of its own, once it is asked for a chat.
        """
        import tokenizers

        check_links(path)
        file = path / "tokenizer.json"
        if not file.is_file():
            raise CheckpointError(f"{file} is missing; save the model's fast tokenizer there")
        try:
            backend = tokenizers.Tokenizer.from_file(str(file))
        except Exception as error:  # the library raises bare Exception for every broken file
            raise CheckpointError(f"{file} cannot be read ({' '.join(str(error).split())[:200]})") from error
        backend.no_truncation()
        backend.no_padding()
        config = optional_json(path / "tokenizer_config.json")
        special = {**_special(optional_json(path / "special_tokens_map.json")), **_special(config)}
        # As transformers does: the named special tokens are matched in text and skipped in output.
        known = [token for token in special.values() if backend.token_to_id(token) is not None]
        backend.add_special_tokens(known)
        return cls(
            backend,
            special=special,
            template=read_template(path, config),
            tool_template=read_template(path, config, ("tool_use",)),
            eos_ids=eos_ids(path),
            add_bos=config.get("add_bos_token") is True,
            sandbox=sandbox,
        )

    def encode(self, text: str, *, add_special_tokens: bool) -> list[int]:
        """Ids of `text`; with `add_special_tokens` as the tokenizer's post-processor frames a text (BOS, ...)."""
        # encode_batch_fast releases the interpreter lock (encode does not) and keeps no offsets.
        encoded = self._backend.encode_batch_fast([_whole(text)], add_special_tokens=add_special_tokens)[0]
        return list(encoded.ids)

    def prompt_ids(self, prompt: str | tuple[int, ...], param: str = "prompt") -> list[int]:
        """Ids of a completions prompt: a text gets what the tokenizer puts before one (BOS), ids are taken as they are.

        An empty text is BOS alone. Raises `InvalidRequest` for ids outside the vocabulary, for no ids, and for an empty
        text where the model has no BOS.
        """
        if isinstance(prompt, str):
            if prompt:
                return [*self._prefix, *self.encode(prompt, add_special_tokens=False)]
            if self._prefix:
                return list(self._prefix)
            if self.bos_id is not None:
                return [self.bos_id]
            raise InvalidRequest("prompt is empty and this model has no BOS token to start from", param="prompt")
        if not prompt:
            raise InvalidRequest(f"{param} holds no token ids; give at least one", param=param)
        for token in prompt:
            if isinstance(token, bool) or not isinstance(token, int) or not 0 <= token < self.vocab_size:
                raise InvalidRequest(
                    f"{param} holds {token!r}, not a token id of this model (0 to {self.vocab_size - 1})", param=param
                )
        return list(prompt)

    def infill_ids(self, before: str, after: str) -> tuple[list[int], frozenset[int]]:
        """Ids of a prompt that asks for the text between the two, and the ids that end such an answer.

        Raises `InvalidRequest` where the vocabulary has no marks for it.
        """
        if self._fim is None:
            raise InvalidRequest(
                "suffix needs a model that fills in the middle, and this one's vocabulary has no marks for it",
                param="suffix",
                code="unsupported_parameter",
            )
        ids = self._fim.ids(self.encode(before, add_special_tokens=False), self._continued(after))
        return [*self._prefix, *ids], self._fim.ends

    @cached_property
    def _fim(self) -> Fim | None:
        return fim_of(self._backend.token_to_id)

    def _continued(self, text: str) -> list[int]:
        """Ids of a text that other text stands before: without the space that SentencePiece puts at a beginning."""
        if self._rule is None or not (self._rule.strip_text or self._rule.strip_token):
            return self.encode(text, add_special_tokens=False)
        guard = self.encode(_GUARD, add_special_tokens=False)
        ids = self.encode(_GUARD + text, add_special_tokens=False)
        return ids[len(guard) :] if ids[: len(guard)] == guard else self.encode(text, add_special_tokens=False)

    def input_ids(self, value: str | tuple[int, ...], param: str) -> list[int]:
        """Ids of a text that is only read (an embedding's): with all that the tokenizer puts before and behind one."""
        if not isinstance(value, str):
            return self.prompt_ids(value, param)
        ids = self.encode(value, add_special_tokens=True)
        if ids[: len(self._prefix)] != list(self._prefix):
            ids = [*self._prefix, *ids]
        if not ids:
            raise InvalidRequest(f"{param} is empty, and this model has no BOS token to start from", param=param)
        return ids

    def chat_text(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        add_generation_prompt: bool = True,
        use: ToolUse | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> str:
        """The prompt text that the model's chat template makes of `messages`; see `ChatTemplate.render`. Blocking."""
        template = self._template_of(use)
        return template.render(messages, add_generation_prompt=add_generation_prompt, use=use, options=options)

    def chat_ids(
        self,
        messages: Sequence[Mapping[str, Any]],
        add_generation_prompt: bool = True,
        *,
        use: ToolUse | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> list[int]:
        """Ids of a chat. The template writes BOS and all other special tokens itself, so none are added."""
        text = self.chat_text(messages, add_generation_prompt=add_generation_prompt, use=use, options=options)
        return self.encode(text, add_special_tokens=False)

    def chat_format(self, use: ToolUse | None = None) -> ChatFormat:
        """How the model speaks, as its template shows it. Blocking at the first time."""
        return self._template_of(use).format

    def _template_of(self, use: ToolUse | None) -> ChatTemplate:
        """Some models have a second template, for chats with tools."""
        source = self._tool_template if use is not None and self._tool_template is not None else self._template_source
        if source is None:
            raise InvalidRequest(
                "this model has no chat template; send the text to /v1/completions instead", param="messages"
            )
        if source not in self._templates:
            self._templates[source] = ChatTemplate(source, self._special_tokens, self._sandbox)
        return self._templates[source]

    @cached_property
    def special_tokens(self) -> Mapping[str, int]:
        """Names and ids of the tokens that no text becomes by itself and that have no text of their own."""
        added = self._backend.get_added_tokens_decoder()
        return {str(added[token].content): token for token in self._special_ids}

    @property
    def special_ids(self) -> frozenset[int]:
        """Tokens that are signs for the model and no text of an answer."""
        return self._special_ids

    def token_text(self, token: int) -> str:
        """The token's own text; an incomplete UTF-8 character shows as U+FFFD. Special tokens show their names."""
        return self.token_bytes(token).decode("utf-8", errors="replace")

    def token_bytes(self, token: int) -> bytes:
        """The bytes that the token stands for, its leading space included; empty for an id without a token."""
        name = self._backend.id_to_token(token) if 0 <= token < 1 << 32 else None
        if name is None:
            return b""
        if token in self._special_ids:
            return name.encode()
        if self._rule is not None:
            return self._rule.to_bytes(name)
        return str(self._backend.decode([token], skip_special_tokens=False)).encode()

    def decode(self, ids: Sequence[int], after: Sequence[int] = ()) -> str:
        """The text of `ids` as `detokenizer` streams it."""
        stream = self.detokenizer(after)
        return stream.push(ids) + stream.finish()

    def detokenizer(self, after: Sequence[int] = (), shown: Set[str] = frozenset()) -> Detokenizer:
        """A new stream. `after`: the ids that the text continues (a completions prompt). `shown`: special
        tokens, by name, whose names are text here.

        At the start of a text a SentencePiece tokenizer's first space is the encoder's, not the text's, and is dropped;
        after other text it is real and stays. A chat answer is a text of its own: leave `after` empty.
        """
        names = {self.special_tokens[name]: name for name in shown if name in self.special_tokens}
        if names:
            return NamingDetokenizer(names, lambda: self.detokenizer(after))
        if self._rule is not None:
            continues = any(token not in self._special_ids for token in after)
            return BytesDetokenizer(
                self._visible,
                0 if continues else self._rule.strip_text,
                strip_token=self._rule.strip_token and not continues,
            )
        return WindowDetokenizer(lambda ids: str(self._backend.decode(ids, skip_special_tokens=True)), after)

    def _visible_bytes(self, token: int) -> bytes:
        return b"" if token in self._special_ids else self.token_bytes(token)

    def min_tokens(self, text: str) -> int:
        """A number of tokens that `text` certainly has, without tokenizing it (linear scan); 0 where none is known.

        Lets a prompt that cannot fit be refused at once.
        """
        return self._bound.min_tokens(text)

    def _id_of(self, token: str | None) -> int | None:
        return self._backend.token_to_id(token) if token is not None else None

    def _read_prefix(self, add_bos: bool) -> tuple[int, ...]:
        """What the post-processor puts before a text (what it puts behind one, an EOS, would end a completion)."""
        plain, framed = self.encode("a", add_special_tokens=False), self.encode("a", add_special_tokens=True)
        prefix: tuple[int, ...] = ()
        for start in range(len(framed) - len(plain) + 1):
            if framed[start : start + len(plain)] == plain:
                prefix = tuple(framed[:start])
                break
        if add_bos and self.bos_id is not None and prefix[:1] != (self.bos_id,):
            return (self.bos_id, *prefix)
        return prefix


def _special(config: Mapping[str, Any]) -> dict[str, str]:
    """Every `*_token` of a tokenizer config that names a token, as text."""
    out: dict[str, str] = {}
    for key, value in config.items():
        if isinstance(value, Mapping):
            value = value.get("content")
        if key.endswith("_token") and isinstance(value, str) and value:
            out[key] = value
    return out


def _whole(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InvalidRequest("the text holds a lone surrogate (half of a UTF-16 pair), not valid Unicode") from error
    return text
