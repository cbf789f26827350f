"""Other providers' APIs over OpenAI's chat shape, which is this node's own (`routing.call.Call`).

A dialect is a pure pair: `decode(body) -> Decoded` (a chat body in OpenAI's shape, with an encoder that remembers what
the answer needs) and the `Encoder`. `serving.DialectServer` brings both together with the adapter.
"""
