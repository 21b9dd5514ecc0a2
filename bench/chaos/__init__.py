"""The real server under load, faults and kill -9, and whether every microcredit is where it belongs.

``make chaos`` or ``python -m bench.chaos``; see docs/reliability.md.
"""
