"""Explain an answer: how much each word contributes to a label.

>>> from inference.explain import explain
>>> explain(classifier, "what a lovely film", task="sentiment").words
"""

from inference.explain.explanation import Explanation
from inference.explain.run import explain

__all__ = ["Explanation", "explain"]
