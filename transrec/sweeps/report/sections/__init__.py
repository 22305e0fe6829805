"""The sections of a report: each adds blocks to a draft and sentences to its findings."""
