-- Who monitors whom, besides nlmd its own clients.

-- Which boot of this machine the NSM state number is of; empty: not known.
ALTER TABLE server ADD COLUMN boot TEXT NOT NULL DEFAULT '';

-- SM_MON of this host's programs (--nsm embedded): whom to watch, whom to call. Addresses are
-- literals with a blank between: where mon_name resolved to.
CREATE TABLE local_monitor (
    mon_name   TEXT NOT NULL,
    my_name    TEXT NOT NULL,
    prog       INTEGER NOT NULL,
    vers       INTEGER NOT NULL,
    proc       INTEGER NOT NULL,
    priv       BLOB NOT NULL,
    privileged INTEGER NOT NULL,
    addresses  TEXT NOT NULL,
    PRIMARY KEY (mon_name, my_name, prog, vers, proc)
) STRICT, WITHOUT ROWID;

-- Hosts that were monitored when this machine, or by SM_SIMU_CRASH a program, went down: to be told.
CREATE TABLE to_tell (
    mon_name  TEXT NOT NULL,
    my_name   TEXT NOT NULL,
    addresses TEXT NOT NULL,
    PRIMARY KEY (mon_name, my_name)
) STRICT, WITHOUT ROWID;

-- Addresses that rpc.statd watches for nlmd (--nsm statd), with the cookie that comes back.
CREATE TABLE watch (
    address TEXT PRIMARY KEY,
    cookie  BLOB NOT NULL
) STRICT, WITHOUT ROWID;
