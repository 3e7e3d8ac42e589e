"""What `tools/bench.py` is made of.

Reading order: `cases` (what is measured), `wrk` and `beanstalk` (the load), `load`,
`processes`, `contenders` and `rivals` (the servers), `results`, `targets`, `report`, `picture`.
"""
