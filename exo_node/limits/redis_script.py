"""The one Lua script: a list of operations in, a list of answers out, all of it one atomic step in Redis.

Its clock is Redis' own, in microseconds, so that nodes need not agree on the time. Money is in whole nano-USD.
Operations (JSON arrays by position):
  ["take", id, tokens, [[scope, requests|-1, tokens|-1], ...], [[sums, reserved, limit, amount|-1], ...]]
      -> ["ok", spent, ...] of the budgets ([] where there is none), or ["rate", index, "requests"|"tokens",
         wait_us|-1], or ["budget", index, used, spent]; `used` is with what is reserved
  ["settle", id, tokens, [scope, ...], [reserved, ...]]
  ["release", id, [scope, ...], [reserved, ...]]
  ["spent", [[sums, node, amount], ...]]      amounts only grow
  ["restore", scope, [[id, age_us, tokens], ...]]
  ["cool", name, for_us]
The answer's "open" lists the shared cooldowns: name -> microseconds left. "since" names what Redis holds, as long as it
keeps it: where that is not what the caller knows (ARGV[2]), nothing is done and there is no more in the answer. ARGV[3]
is its name if there is none yet.
"""

SCRIPT = """
local clock = redis.call('TIME')
local now = tonumber(clock[1]) * 1000000 + tonumber(clock[2])
local prefix = KEYS[1]
local MINUTE, HOUR, KEEP = 60000000, 3600000000, 3456000
local since = redis.call('GET', prefix .. 'since')
if not since then
  since = ARGV[3]
  redis.call('SET', prefix .. 'since', since)
end
if since ~= ARGV[2] then return cjson.encode({since = since}) end
local function s(x) return string.format('%.0f', x + 0) end  -- + 0: no "-0", which is no integer to Redis

local function prune(log, length)
  while true do
    local old = redis.call('ZRANGEBYSCORE', log, '-inf', s(now - length), 'LIMIT', 0, 500)
    if #old == 0 then return end
    local amounts = redis.call('HMGET', log .. ':n', unpack(old))
    local sum = 0
    for i = 1, #old do sum = sum + (tonumber(amounts[i] or '0') or 0) end
    redis.call('ZREM', log, unpack(old))
    redis.call('HDEL', log .. ':n', unpack(old))
    redis.call('HINCRBY', log .. ':n', '#', s(-sum))
  end
end

local function total(log) return tonumber(redis.call('HGET', log .. ':n', '#') or '0') or 0 end

local function enter(log, id, amount, at, length)
  redis.call('ZADD', log, s(at), id)
  redis.call('HSET', log .. ':n', id, s(amount))
  redis.call('HINCRBY', log .. ':n', '#', s(amount))
  local last = s((now + length * 2) / 1000)
  redis.call('PEXPIREAT', log, last)
  redis.call('PEXPIREAT', log .. ':n', last)
end

local function change(log, id, amount)
  local old = tonumber(redis.call('HGET', log .. ':n', id) or 'x')
  if not old then return end
  if amount then
    redis.call('HSET', log .. ':n', id, s(amount))
    redis.call('HINCRBY', log .. ':n', '#', s(amount - old))
  else
    redis.call('ZREM', log, id)
    redis.call('HDEL', log .. ':n', id)
    redis.call('HINCRBY', log .. ':n', '#', s(-old))
  end
end

local function wait_count(log, entries)
  local found = redis.call('ZRANGE', log, entries - 1, entries - 1, 'WITHSCORES')
  if #found < 2 then return MINUTE end
  return math.max(0, tonumber(found[2]) + MINUTE - now)
end

local function wait_sum(log, amount)
  local from, freed = 0, 0
  while true do
    local ids = redis.call('ZRANGE', log, from, from + 99)
    if #ids == 0 then return MINUTE end
    local amounts = redis.call('HMGET', log .. ':n', unpack(ids))
    for i = 1, #ids do
      freed = freed + (tonumber(amounts[i] or '0') or 0)
      if freed >= amount then
        return math.max(0, tonumber(redis.call('ZSCORE', log, ids[i])) + MINUTE - now)
      end
    end
    from = from + 100
  end
end

local function spent(sums)
  local sum = 0
  for _, value in ipairs(redis.call('HVALS', sums)) do sum = sum + tonumber(value) end
  return sum
end

local ops = {}

function ops.take(op)
  local id, tokens, limits, budgets = op[2], op[3], op[4], op[5]
  local worst = nil
  local function refuse(index, what, wait)
    if not worst or wait < 0 or (worst[4] >= 0 and wait > worst[4]) then worst = {'rate', index - 1, what, wait} end
  end
  for i, limit in ipairs(limits) do
    local log = prefix .. 'rate:' .. limit[1]
    prune(log, MINUTE)
    local count = redis.call('ZCARD', log)
    if limit[2] >= 0 and count + 1 > limit[2] then
      local wait = -1
      if limit[2] > 0 then wait = wait_count(log, count + 1 - limit[2]) end
      refuse(i, 'requests', wait)
    end
    if limit[3] >= 0 then
      local over = total(log) + tokens - limit[3]
      if tokens > limit[3] then
        refuse(i, 'tokens', -1)
      elseif over > 0 then
        refuse(i, 'tokens', wait_sum(log, over))
      end
    end
  end
  if worst then return worst end
  local passed = {}
  for i, budget in ipairs(budgets) do
    local reserved = prefix .. 'reserved:' .. budget[2]
    prune(reserved, HOUR)
    local sum = spent(prefix .. 'spent:' .. budget[1])
    local used = sum + total(reserved)
    if (budget[4] < 0 and used >= budget[3]) or (budget[4] > 0 and used + budget[4] > budget[3]) then
      return {'budget', i - 1, used, sum}
    end
    passed[1], passed[i + 1] = 'ok', sum
  end
  for _, limit in ipairs(limits) do enter(prefix .. 'rate:' .. limit[1], id, tokens, now, MINUTE) end
  for _, budget in ipairs(budgets) do
    if budget[4] > 0 then enter(prefix .. 'reserved:' .. budget[2], id, budget[4], now, HOUR) end
  end
  return passed
end

function ops.settle(op)
  for _, scope in ipairs(op[4]) do change(prefix .. 'rate:' .. scope, op[2], op[3]) end
  for _, reserved in ipairs(op[5]) do change(prefix .. 'reserved:' .. reserved, op[2], nil) end
  return {}
end

function ops.release(op)
  for _, scope in ipairs(op[3]) do change(prefix .. 'rate:' .. scope, op[2], nil) end
  for _, reserved in ipairs(op[4]) do change(prefix .. 'reserved:' .. reserved, op[2], nil) end
  return {}
end

function ops.spent(op)
  for _, row in ipairs(op[2]) do
    local sums = prefix .. 'spent:' .. row[1]
    if row[3] > (tonumber(redis.call('HGET', sums, row[2]) or '0') or 0) then
      redis.call('HSET', sums, row[2], s(row[3]))
      redis.call('EXPIRE', sums, KEEP)
    end
  end
  return {}
end

function ops.restore(op)
  local log = prefix .. 'rate:' .. op[2]
  for _, entry in ipairs(op[3]) do
    if entry[2] < MINUTE and redis.call('HEXISTS', log .. ':n', entry[1]) == 0 then
      enter(log, entry[1], entry[3], now - entry[2], MINUTE)
    end
  end
  return {}
end

function ops.cool(op)
  redis.call('HSET', prefix .. 'open', op[2], s(now + op[3]))
  redis.call('PEXPIRE', prefix .. 'open', 86400000)
  return {}
end

local results, open = {}, {}
for i, op in ipairs(cjson.decode(ARGV[1])) do results[i] = ops[op[1]](op) end
local kept = redis.call('HGETALL', prefix .. 'open')
for i = 1, #kept, 2 do
  local left = tonumber(kept[i + 1]) - now
  if left > 0 then open[kept[i]] = left else redis.call('HDEL', prefix .. 'open', kept[i]) end
end
return cjson.encode({since = since, results = results, open = open})
"""
