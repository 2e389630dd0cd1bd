"""Answers for very many images: killed and continued, one crash does not stop the rest, and memory does not grow."""
