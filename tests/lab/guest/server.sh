# The server VM with nlmd as its lock manager, and the example NFS server beside it: what scenarios about nlmd use.
. /lab/lib.sh

STATE=/var/lib/nlmd LOG=/run/nlmd.log REPORT=/run/report.json
