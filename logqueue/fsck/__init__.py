"""logqueue-fsck: look at a data directory, repair it, rescue what is in it.

Reading order:

    finding.py      what can be wrong, and what it means to the operator
    seed.py         PURE: the salt of a segment whose header is lost
    segmentfile.py  one segment file: what is known of it
    segments.py     which records are in it, and what is wrong with it
    survey.py       what is known of one queue
    identity.py     which queue each directory holds
    chain.py        its segments together, and what is missing between them
    queue.py        its directory: all files, in the order in which they explain each other
    check.py        the data directory: every queue, and what stands beside them
    plan.py         PURE: a survey -> the parts of the queue as it should be
    build.py        a plan -> a new queue directory
    quarantine.py   what repairs have set aside
    transaction.py  putting rebuilt queues in the place of the old ones, at once or not at all
    repair.py       check -> questions -> plans -> one transaction; and undo
    salvage.py      every valid record into a new data directory
    show.py         dump and stat
    report.py       what is printed
    command.py      the command line

Reads with pread, never through a map.  Decoders and rules are the daemon's own (`storage`).
"""
