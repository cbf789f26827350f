"""Hypothesis strategies for every protobuf message of ours, made from the descriptors."""

from __future__ import annotations

from functools import cache
from typing import Any

from google.protobuf import message_factory
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message
from hypothesis import strategies as st

from exo_node.transport.generated.exo.v1 import node_pb2, ring_pb2
from tests.fuzz.inputs import TEXTS

_ENCODABLE = [text for text in TEXTS if text.isprintable() or text.isascii()]
_WORDS = st.one_of(
    st.sampled_from([text for text in _ENCODABLE if not any("\ud800" <= char <= "\udfff" for char in text)]),
    st.sampled_from(["float32", "bfloat16", "cpu", "ready", "loading", "chat", "json_schema", "lark", "{}", "[]"]),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=10),
)
_JSON = st.sampled_from([b"{}", b"[]", b"null", b"1e999", b"[" * 3000, b'{"model": 1}', b'"\\ud800"', b"\xff", b""])


def _integers(low: int, high: int) -> st.SearchStrategy[int]:
    return st.one_of(st.integers(0, min(20, high)), st.sampled_from([low, high, high // 2]), st.integers(low, high))


_SCALARS: dict[int, st.SearchStrategy[Any]] = {
    FieldDescriptor.CPPTYPE_BOOL: st.booleans(),
    FieldDescriptor.CPPTYPE_UINT32: _integers(0, 2**32 - 1),
    FieldDescriptor.CPPTYPE_INT32: _integers(-(2**31), 2**31 - 1),
    FieldDescriptor.CPPTYPE_UINT64: _integers(0, 2**64 - 1),
    FieldDescriptor.CPPTYPE_INT64: _integers(-(2**63), 2**63 - 1),
    FieldDescriptor.CPPTYPE_FLOAT: st.floats(width=32),
    FieldDescriptor.CPPTYPE_DOUBLE: st.floats(),
}


def message_classes() -> list[type[Message]]:
    """Every message of both services, inner ones too (map entries left out)."""
    found: list[Descriptor] = []
    for file in (node_pb2.DESCRIPTOR, ring_pb2.DESCRIPTOR):
        found += file.message_types_by_name.values()
    return [message_factory.GetMessageClass(one) for one in found]


@cache
def messages(descriptor: Descriptor, depth: int = 3) -> st.SearchStrategy[Message]:
    """Messages of that type: each field unset, at an edge, or anything its type holds."""
    made = message_factory.GetMessageClass(descriptor)
    fields = {field.name: one for field in descriptor.fields if (one := _field(field, depth)) is not None}
    return st.fixed_dictionaries({}, optional=fields).map(lambda given: _filled(made, given))


def _filled(made: type[Message], given: dict[str, Any]) -> Message:
    oneof: dict[Any, str] = {}
    for name in list(given):
        holder = made.DESCRIPTOR.fields_by_name[name].containing_oneof
        if holder is not None and oneof.setdefault(holder.name, name) != name:
            del given[name]
    return made(**given)


def _field(field: FieldDescriptor, depth: int) -> st.SearchStrategy[Any] | None:
    inner = field.message_type
    if inner is not None and inner.GetOptions().map_entry:
        key = _single(inner.fields_by_name["key"], depth)
        value = _single(inner.fields_by_name["value"], depth - 1)
        return None if value is None or key is None else st.dictionaries(key, value, max_size=3)
    single = _single(field, depth)
    if single is None or not field.is_repeated:
        return single
    return st.lists(single, max_size=4)


def _single(field: FieldDescriptor, depth: int) -> st.SearchStrategy[Any] | None:
    match field.cpp_type:
        case FieldDescriptor.CPPTYPE_MESSAGE:
            return messages(field.message_type, depth - 1) if depth > 0 else None
        case _ if field.type == FieldDescriptor.TYPE_BYTES:
            return st.one_of(st.binary(max_size=64), _JSON)
        case FieldDescriptor.CPPTYPE_STRING:
            return _WORDS
        case kind:
            return _SCALARS[kind]
