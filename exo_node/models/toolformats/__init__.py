"""How models call tools and think in their text: one family a file, each a pure parser and a grammar of its calls."""
