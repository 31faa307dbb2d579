"""Measure the three runtimes on the same labelled texts, keep what was found, decide what to ship.

rows → (worker ← benchmark) → receipt → results → verdict
"""
