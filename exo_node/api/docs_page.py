"""The OpenAPI document as a page that a person can read: plain HTML, no script, nothing fetched from anywhere. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from html import escape
from typing import Any

CSP = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
_STYLE = """
:root { color-scheme: light dark; font: 16px/1.5 system-ui, sans-serif; }
body { margin: 0 auto; max-width: 60rem; padding: 1rem; }
code { font: 0.9em ui-monospace, monospace; }
h3 code { font-size: 1rem; }
details { border: 1px solid #8884; border-radius: 6px; margin: 0.5rem 0; padding: 0.5rem 0.8rem; }
summary { cursor: pointer; }
table { border-collapse: collapse; width: 100%; }
td, th { border-top: 1px solid #8883; padding: 0.2rem 0.6rem 0.2rem 0; text-align: left; vertical-align: top; }
.method { display: inline-block; font-weight: 600; min-width: 4.5rem; }
.note { opacity: 0.75; }
"""


def page(document: Mapping[str, Any]) -> str:
    """One section a tag, one fold an operation, one table a body."""
    schemas = document["components"]["schemas"]
    entries = [
        (path, method, entry) for path, methods in document["paths"].items() for method, entry in methods.items()
    ]
    tags = [tag["name"] for tag in document["tags"]]
    info = document["info"]
    nav = " · ".join(f'<a href="#{_slug(tag)}">{escape(tag)}</a>' for tag in tags)
    body = "".join(_section(tag, [one for one in entries if tag in one[2]["tags"]], schemas) for tag in tags)
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{escape(info["title"])} API</title>'
        f'<meta name="viewport" content="width=device-width"><style>{_STYLE}</style></head><body>'
        f"<h1>{escape(info['title'])} {escape(info['version'])}</h1><p>{escape(info['description'])} "
        f'The same for programs: <a href="/openapi.json">/openapi.json</a>.</p><p>{nav}</p>{body}</body></html>'
    )


def _section(tag: str, entries: Iterable[tuple[str, str, Mapping[str, Any]]], schemas: Mapping[str, Any]) -> str:
    shown = "".join(_operation(path, method, entry, schemas) for path, method, entry in entries)
    return f'<h2 id="{_slug(tag)}">{escape(tag)}</h2>{shown}'


def _operation(path: str, method: str, entry: Mapping[str, Any], schemas: Mapping[str, Any]) -> str:
    parts = [
        f'<summary><span class="method">{method.upper()}</span><code>{escape(path)}</code> '
        f"{escape(entry['summary'])}</summary>"
    ]
    parts += [f'<p class="note">{_text(each)}</p>' for each in entry.get("description", "").split("\n\n") if each]
    if entry.get("parameters"):
        rows = [(one["name"], one["in"], one["schema"], one["required"]) for one in entry["parameters"]]
        parts.append(_table("Parameters", rows))
    for media, content in entry.get("requestBody", {}).get("content", {}).items():
        parts.append(_fields(f"Body ({media})", content.get("schema", {}), schemas))
    for status, answer in entry["responses"].items():
        if status == "default":
            continue
        for media, content in answer.get("content", {}).items():
            parts.append(_fields(f"Answer {status} ({media})", content.get("schema", {}), schemas))
    return f"<details>{''.join(parts)}</details>"


def _fields(title: str, schema: Mapping[str, Any], schemas: Mapping[str, Any]) -> str:
    table = _resolved(schema, schemas)
    properties = table.get("properties")
    if not properties:
        return f"<p>{escape(title)}{': ' + _type(schema) if schema else ''}</p>"
    required = table.get("required", ())
    rows = [(name, "", one, name in required) for name, one in properties.items()]
    return _table(title, rows)


def _table(title: str, rows: Iterable[tuple[str, str, Mapping[str, Any], bool]]) -> str:
    lines = "".join(
        f"<tr><td><code>{escape(name)}</code></td><td>{_type(schema)}</td>"
        f"<td>{'required' if required else ''}{escape(where and f' in the {where}')}</td>"
        f"<td>{escape(_description(schema))}</td></tr>"
        for name, where, schema, required in rows
    )
    return f"<p>{escape(title)}</p><table>{lines}</table>"


def _type(schema: Mapping[str, Any]) -> str:
    """`integer, 1 to 8` and the like."""
    if "$ref" in schema:
        return f"<code>{escape(schema['$ref'].rpartition('/')[2])}</code>"
    if "anyOf" in schema:
        return " or ".join(_type(one) for one in schema["anyOf"] if one.get("type") != "null")
    if "enum" in schema:
        return ", ".join(f"<code>{escape(str(one))}</code>" for one in schema["enum"])
    words = escape(str(schema.get("type", "any")))
    if schema.get("type") == "array" and schema.get("items"):
        words = f"array of {_type(schema['items'])}"
    low, high = schema.get("minimum"), schema.get("maximum")
    if low is not None or high is not None:
        words += f", {'' if low is None else low}–{'' if high is None else high}"
    return words


def _description(schema: Mapping[str, Any]) -> str:
    own = schema.get("description")
    if own is None:
        inner = (one for one in schema.get("anyOf", ()) if one.get("type") != "null")
        own = next((one["description"] for one in inner if "description" in one), "")
    return str(own)


def _resolved(schema: Mapping[str, Any], schemas: Mapping[str, Any]) -> Mapping[str, Any]:
    while "$ref" in schema:
        schema = schemas[schema["$ref"].rpartition("/")[2]]
    return schema


def _text(words: str) -> str:
    """Escaped, with `code` between backticks."""
    parts = escape(words).split("`")
    return "".join(f"<code>{part}</code>" if i % 2 else part for i, part in enumerate(parts))


def _slug(tag: str) -> str:
    return "".join(c if c.isalnum() else "-" for c in tag.lower())
