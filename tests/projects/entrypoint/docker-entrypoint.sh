#!/bin/sh
set -e
if [ "$1" = serve ] && [ "$(id -u)" = 0 ]; then
  chown -R app /opt/app/data
  exec su app -s /bin/sh -c "exec $0 $*"
fi
exec "$@"
