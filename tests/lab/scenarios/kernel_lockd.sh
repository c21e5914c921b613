# nlmd beside the kernel's own lockd: it says whose NLM is, leaves those entries alone, and serves once they are gone.
. /lab/server.sh
stop_server
pgrep -x rpcbind >/dev/null || rpcbind -w
modprobe nfsd
mountpoint -q /proc/fs/nfsd || mount -t nfsd nfsd /proc/fs/nfsd
rpc.nfsd 1
serves_nlm() { rpcinfo -T udp 127.0.0.1 nlockmgr 4 >/dev/null 2>&1; }
check "the kernel serves NLM" await 30 serves_nlm
before=$(rpcinfo)

timeout 60 nlmd --state-dir /run/second --control /run/second.sock --name srv.lab >/run/second.log 2>&1
equal "nlmd does not start" $? 1
check "it says that NLM is the kernel's" grep -q "registered already, by the kernel's lockd" /run/second.log
note "$(tail -n 1 /run/second.log)"
equal "the kernel's entries are as they were" "$(rpcinfo)" "$before"

rpc.nfsd 0
gone() { ! serves_nlm; }
check "the kernel lets go" await 30 gone
serve
check "nlmd serves" serves_nlm
verdict
