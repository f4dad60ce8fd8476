"""Talking to a model: one session, shown in a terminal or on a web page.

Arrows point one way: terminal and web → session → reply, prompts and a model (local or served).
"""
