"""``python -m sampan.daemon``."""

from sampan.daemon.main import main

raise SystemExit(main())
