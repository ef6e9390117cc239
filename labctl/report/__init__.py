"""Reports: a recorded run as one self-contained HTML page.

`gather.from_record` makes a `Report` of a run's directory, `page.render` makes the page of it.
Nothing here prints, and nothing but the record is looked at.
"""
