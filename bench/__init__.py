"""Timings of whole client commands, side by side with the engines that are installed.

Run by ``make bench``; see ``python -m bench --help``.  Every figure is the median of several runs
taken in turn (sampan, peer, sampan, peer …), so that a drift of the machine's speed hits all alike.
"""
