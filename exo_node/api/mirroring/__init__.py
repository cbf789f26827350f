"""Answers made in the background, kept on a second node while they are made, and found from every node."""
