import sys

from relaunch_agent.main import main

sys.exit(main(sys.argv[1:]))
