. /lab/server.sh
note "smoke"
for c in c1 c2 c3 vm; do time on $c "hostname; ip -br addr; rpcinfo -p | tail -3; ls /var/lib/nfs"; done
rpcbind -w
/lab/bin/nlmd --version
time process A c1 ../tmp/a
time ask A lock 0 10
equal "lock" "$(ask A lock 0 10)" granted
on c1 "python3 -IS -c 'import json, fcntl'; ls /proc/locks; cat /proc/locks"
python3 -c 'import json'
stop A
verdict
