"""What can be said of a machine before an environment exists: doctor, supported versions, the test of a fresh machine.

Standard library only, and nothing newer than Python 3.8: the machine's own Python runs it. torch is asked in
processes of its own (probes/), so that what crashes or hangs there is a finding here.
"""
