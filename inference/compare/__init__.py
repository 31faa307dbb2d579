"""Measure the runtimes on the same labelled texts, keep the measurement as a receipt, and decide what to ship.

rows → (worker ← benchmark) → receipt → results → verdict
"""
