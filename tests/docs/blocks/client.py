"""What every program on the PATH of a block is: it hands words, folder, environment and streams to the service.

Copied as bin/NAME with the interpreter and the address filled in; it imports little, because it starts often.
"""

import array
import json
import os
import signal
import socket
import sys

ADDRESS = "@ADDRESS@"


def main():
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(ADDRESS)
    request = {
        "words": [os.path.basename(sys.argv[0]), *sys.argv[1:]],
        "folder": os.getcwd(),
        "environment": {**os.environ},
    }
    streams = array.array("i", [0, 1, 2])
    connection.sendmsg([b"."], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, streams)])
    connection.sendall(json.dumps(request).encode() + b"\n")
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
        # Python holds its handlers back until a call returns; recv is taken up again behind them
        signal.signal(number, lambda number, _: connection.sendall(bytes([number])))
    status = int(connection.makefile().readline() or 1)
    if status < 0:
        signal.signal(-status, signal.SIG_DFL)
        os.kill(os.getpid(), -status)
    os._exit(status)


main()
