"""The lab: one file is one page; job, controls, charts and player are what the pages share."""
