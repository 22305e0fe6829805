"""The report of a sweep: pages, figures, sections and findings."""
