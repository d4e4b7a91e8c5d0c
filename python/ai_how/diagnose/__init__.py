"""What is wrong with a host's networks, and what to do: asked once, understood apart from that, one cause named first.

    question.py   what can be asked
    ask/          asks the host, part by part and side by side; changes nothing
    capture.py    what it said: text and plain data, which a file can hold (bundle.py; redact.py takes secrets out)
    read.py       capture → facts; facts.py is what is known, "could not look" included
    checks/       facts → findings, a small function for each cause; rules/ follows packets through everybody's rules
    catalogue.py  the causes: where in the chain each is, and what it explains
    causes.py     findings → the one cause, and what it does not explain
    report.py     the verdict for people
    doctor.py     all of it in a row; fixing.py repairs

Runs under a bare interpreter, too: only the standard library, and libvirt by its bindings or by virsh. What takes
ai-how's own environment (fixing.py, ask/drift.py) is loaded on demand.
"""
