"""The recipe of the compact embedder: data, teacher, student, schedule, export.

Run it from the checkout's root: `python -m training --help`. It is not part of the wheel.
"""
