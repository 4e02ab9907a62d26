"""What the store does in one step, in Lua: for Valkey 7.2 and later, Redis 7 and later.

Pure. Four keys of a group, in one slot of a Cluster, are a table of news:

    m  hash    `epoch`: random, made with the first write. `v`: a counter, version of the table, generation of an entry
    e  hash    entry → generation|until|ms|token|payload. `until`: milliseconds of the server's clock, 0: stays; `ms`:
               for how long it was told, which bounds what is left where that clock was set back
    z  zset    entry by generation: what has changed since
    x  zset    entry by `until`: what may be thrown away, a few with each write

`w` and `d` are who is there: names by the end of their leases, and what each tells of itself. `p:…` are the probes that
are out (tokens by the end of their leases), `s:…` where conversations stay, `i:…` who issued
an identifier. No clock but the server's is read, and nothing but remaining milliseconds is told. A write that the
server has no room for fails before it has changed anything.
"""

from __future__ import annotations

import enum
import hashlib

KEPT_MS = 172_800_000
"""A group that is not heard of for so long is forgotten."""
ENTRY_BYTES = 512
"""Of what stands in an entry; those of ours have about a hundred. One that is longer, or of another form, is none: who
may write to the store makes nobody read it."""

_NOW = """
local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)
"""

_READ = (
    _NOW
    + f"""
local function read(id)
  local short = #id <= {ENTRY_BYTES} and redis.call('HSTRLEN', KEYS[2], id) <= {ENTRY_BYTES}
  local e = short and redis.call('HGET', KEYS[2], id)
  local v, till, ms, token, payload = string.match(e or '', '^(%d+)|(%d+)|(%d+)|([^|]*)|(.*)$')
  if not v or #v > 15 or #till > 15 or #ms > 15 then return nil end
  till = tonumber(till)
  if till > 0 and till <= now then return nil end
  return tonumber(v), math.min(tonumber(ms), math.max(till - now, 0)), token, payload
end
"""
)

_COMMON = (
    _READ
    + f"""
local function text(number) return string.format('%.0f', number) end
local function bump(epoch)
  if redis.call('HSETNX', KEYS[1], 'epoch', epoch) == 1 then redis.call('HSET', KEYS[1], 'v', '0') end
  return redis.call('HINCRBY', KEYS[1], 'v', 1)
end
local function put(id, v, ms, token, payload)
  local till = 0
  if ms > 0 then till = now + ms end
  redis.call('HSET', KEYS[2], id, v .. '|' .. text(till) .. '|' .. text(ms) .. '|' .. token .. '|' .. payload)
  redis.call('ZADD', KEYS[3], v, id)
  if till > 0 then redis.call('ZADD', KEYS[4], till, id) else redis.call('ZREM', KEYS[4], id) end
  for _, old in ipairs(redis.call('ZRANGE', KEYS[4], '-inf', '(' .. text(now), 'BYSCORE', 'LIMIT', 0, 20)) do
    redis.call('HDEL', KEYS[2], old) redis.call('ZREM', KEYS[3], old) redis.call('ZREM', KEYS[4], old)
  end
  for i = 1, 4 do redis.call('PEXPIRE', KEYS[i], {KEPT_MS}) end
end
"""
)

_TELL = (
    _COMMON
    + """
local id, base, ms, token, payload, epoch = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]), ARGV[4], ARGV[5], ARGV[6]
local v, left, tok, pay = read(id)
local life = redis.call('HGET', KEYS[1], 'epoch')
if life ~= ARGV[8] then base = 0 end
if v and tok == token then return {1, v, left, tok, pay, life} end
if v and v > base then return {0, v, left, tok, pay, life} end
local n = bump(epoch)
put(id, n, ms, token, payload)
redis.call('PUBLISH', ARGV[7], n)
return {1, n, ms, token, payload, life or epoch}
"""
)

_LATER = (
    _COMMON
    + """
local id, ms, grain, token, payload, epoch = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]), ARGV[4], ARGV[5], ARGV[6]
local v, left, tok, pay = read(id)
local life = redis.call('HGET', KEYS[1], 'epoch') or epoch
if v and left + grain >= ms then return {0, v, left, tok, pay, life} end
local n = bump(epoch)
put(id, n, ms, token, payload)
redis.call('PUBLISH', ARGV[7], n)
return {1, n, ms, token, payload, life}
"""
)

_WINDOW = (
    _COMMON
    + """
local id, ms, level, same = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local v, left, tok, pay = read(id)
local life = redis.call('HGET', KEYS[1], 'epoch') or ARGV[7]
if v then
  local known = tonumber(string.match(pay, '^plan (%d%d?%d?%d?%d?%d?%d?%d?%d?) ')) or 0
  if ms < left - same or (ms <= left + same and level <= known) then return {0, v, left, tok, pay, life} end
  ms = math.max(ms, left)
end
local n = bump(ARGV[7])
put(id, n, ms, ARGV[5], ARGV[6])
redis.call('PUBLISH', ARGV[8], n)
return {1, n, ms, ARGV[5], ARGV[6], life}
"""
)

_HAND = (
    _COMMON
    + """
local n = bump(ARGV[4])
put(ARGV[1], n, 0, ARGV[2], ARGV[3])
redis.call('PUBLISH', ARGV[5], n)
return {1, n, 0, ARGV[2], ARGV[3], redis.call('HGET', KEYS[1], 'epoch')}
"""
)

_PULL = (
    _READ
    + """
local m = redis.call('HMGET', KEYS[1], 'epoch', 'v')
if not m[1] or not tonumber(m[2]) then return {'', 0, {}} end
local since = ARGV[2]
if m[1] ~= ARGV[1] then since = '0' end
if tonumber(since) >= tonumber(m[2]) then return {m[1], tonumber(m[2]), {}} end
local ids = redis.call('ZRANGE', KEYS[3], '(' .. since, '+inf', 'BYSCORE', 'LIMIT', 0, ARGV[3], 'WITHSCORES')
local out, last = {}, tonumber(m[2])
if #ids / 2 >= tonumber(ARGV[3]) then last = tonumber(ids[#ids]) end
for i = 1, #ids, 2 do
  local v, left, token, payload = read(ids[i])
  if v then
    out[#out + 1] = ids[i] out[#out + 1] = v out[#out + 1] = left out[#out + 1] = token out[#out + 1] = payload
  end
end
return {m[1], last, out}
"""
)

_CLAIM = (
    _NOW
    + """
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now)
-- No lease is so long: the clock was set back.
redis.call('ZREMRANGEBYSCORE', KEYS[1], string.format('(%.0f', now + ARGV[2]), '+inf')
if not redis.call('ZSCORE', KEYS[1], ARGV[3]) and redis.call('ZCARD', KEYS[1]) >= tonumber(ARGV[1]) then
  return {0, tonumber(redis.call('ZRANGE', KEYS[1], 0, 0, 'WITHSCORES')[2]) - now}
end
redis.call('ZADD', KEYS[1], now + ARGV[2], ARGV[3])
redis.call('PEXPIREAT', KEYS[1], redis.call('ZRANGE', KEYS[1], -1, -1, 'WITHSCORES')[2])
return {1, 0}
"""
)

_RELEASE = "return redis.call('ZREM', KEYS[1], ARGV[1])"


_HERE = """
local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)
redis.call('ZADD', KEYS[1], now + ARGV[2], ARGV[1])
redis.call('HSET', KEYS[2], ARGV[1], ARGV[3])
local limit = string.format('(%.0f', now)
for _, old in ipairs(redis.call('ZRANGE', KEYS[1], '-inf', limit, 'BYSCORE', 'LIMIT', 0, 100)) do
  redis.call('ZREM', KEYS[1], old) redis.call('HDEL', KEYS[2], old)
end
for i = 1, 2 do redis.call('PEXPIRE', KEYS[i], 2 * ARGV[2]) end
local out = {}
for _, name in ipairs(redis.call('ZRANGE', KEYS[1], -tonumber(ARGV[4]), -1)) do
  out[#out + 1] = name out[#out + 1] = redis.call('HGET', KEYS[2], name) or ''
end
return out
"""


class Script(enum.Enum):
    """Each with its arguments and its answer."""

    TELL = _TELL
    """A circuit: entry, newest generation heard of, milliseconds, token, payload, epoch for a first write, channel, the
    epoch that the generation is of → taken (1, 0), generation, milliseconds left, token, payload, epoch. Refused where
    there is news that the teller has not heard: the answer is that news. A repeat with the same token is the same."""
    LATER = _LATER
    """A limit: entry, milliseconds, by how many more it must be later to be worth a message, token, payload, epoch for
    a first write, channel → as above. The later end wins."""
    WINDOW = _WINDOW
    """A window of a plan: entry, milliseconds, how far it is used up, by how many milliseconds two ends of one window
    may differ, token, payload, epoch for a first write, channel → as above. Of one window more use wins, and a later
    window wins; it ends no earlier than it was said to."""
    HAND = _HAND
    """What a user has set: entry, token, payload, epoch for a first write, channel → as above. The last word wins."""
    PULL = _PULL
    """Epoch and version that are known, how many entries at most → epoch, version, and of each entry that is newer:
    entry, generation, milliseconds left (0: stays), token, payload. Everything where the epoch is another one."""
    CLAIM = _CLAIM
    """How many probes at a time, milliseconds of the lease, token → 1, or 0 and the milliseconds until the first lease
    ends. The same token again has its lease anew."""
    RELEASE = _RELEASE
    """Token."""
    HERE = _HERE
    """A name, milliseconds of its lease, what it tells of itself, how many at most → of each that is there: its name,
    and what it tells."""

    def __init__(self, text: str) -> None:
        self.sha = hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()
