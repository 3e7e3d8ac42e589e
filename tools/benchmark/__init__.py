"""What `tools/bench.py` is made of.

Reading order: `cases` (what is measured), `wrk` and `beanstalk` (the load), `processes` and
`contenders` (the servers), `results`, `targets`, `report`, `picture`.
"""
