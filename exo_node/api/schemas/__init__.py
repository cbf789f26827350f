"""The shapes of requests and answers, declared once: bodies are checked by them; `/openapi.json` is made of them."""
