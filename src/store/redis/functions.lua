#!lua name=tidegate_v1

--[[ The log of Tidegate, as functions of Redis 7 or later, or Valkey.

Every function is atomic, because Redis runs it alone: an id, the entry that it names, the topic's last id and the message on
the feed are one step, and no reader ever sees one without the others.

Any program may call `tidegate_publish`; the others are the gateway's own. With the prefix T (`tidegate` by default):

  T:{0}:meta          hash    born, last, horizon (ids); format; retention, limits (JSON)
  T:{0}:last          hash    topic -> "<last id>", or "<last id> <id of the end>"; outlives the stream. Field "$": 1
  T:{0}:heads         zset    topic -> milliseconds of its newest entry
  T:{0}:lost          hash    topic -> "<after>..<through>" for each range that a failover lost, at most 16, by spaces
  T:{0}:topic:<name>  stream  the log of a topic: e type, d data, p previous id (of the first, the birth), b running total
                              of bytes on the wire;
                              the end of a topic has x instead of e and d
  T:{0}:ch:<name>     sharded channel, the feed: "<id> <previous id> e <type>\n<data>", "<id> <previous id> x" for an end,
                              "<id> <id> d" when everything up to that id was deleted, "<through> <after> l" when what lay
                              between was lost
  T:{0}:idem:<hash>   string  "<id> <hash of the payload>"
  T:{0}:replicas      hash    replica -> "<milliseconds at which its lease ends> <JSON>"
  T:{0}:ingest        stream  events of producers that can only XADD: topic, event, data, end, key; waiting to be moved
  T:{0}:ingest:dead   stream  what could not be moved: reason, detail, id (of its entry), at (milliseconds), the fields of
                              the entry as f:<name>, and b, a running total of bytes; cut, where bytes had to be left out
  T:{0}:ingest:lease  string  the replica that moves them
  T:{0}:presence:<topic>       hash  user -> the replicas on which it follows the topic, by spaces
  T:{0}:users                  hash  user -> the replicas on which it has any stream
  T:{0}:presence-of:<replica>  hash  "<topic> <user>", or " <user>" for any stream -> 1: the same by replica
  T:{0}:presences     hash    replica -> "<milliseconds at which its word ends> <number of its words>". Field "$": what the
                              table is called; where it is another one, it was lost

An id is "<milliseconds>-<sequence>". Errors are "<CODE> <what was wrong>"; unless it says otherwise, nothing was written.
All checks of an event come before its first write. ]]

local VERSION = 3
local FORMAT = '1'

-- Milliseconds that an id may lie ahead of the clock before it is taken for a mistake.
local AHEAD_MS = 600000
-- Topics whose last id is forgotten by one call, at most, and one more for each that is new.
local SWEEP = 4
-- Entries of others behind which the newest one of ours is looked for.
local FOREIGN = 128
-- Running totals of bytes are looked at when one passes a multiple of this: about once for each node of a stream.
local BYTES_STEP = 4096
-- Dead letters that are kept: entries, bytes of all, and of one: its bytes, its fields, the name of a field.
local DEAD = { entries = '10000', bytes = 67108864, letter = 262144, fields = 64, name = 255 }

local DEFAULT_RETENTION = { events = 10000, bytes = 67108864, age = 86400000, rules = {} }
local DEFAULT_LIMITS = { event_bytes = 65536, idempotency_window = 300000 }

---------------------------------------------------------------------------------------------------------------------- ids

-- Ids are pairs of numbers here: exact up to 2^53, which milliseconds and sequences stay below.
local function parse(text)
  if not text then return nil end
  local ms, seq = string.match(text, '^(%d+)-(%d+)$')
  ms, seq = tonumber(ms), tonumber(seq)
  if not ms or not seq or ms >= 2^53 or seq >= 2^53 then return nil end
  return { ms, seq }
end

local function format(id)
  return string.format('%d-%d', id[1], id[2])
end

local function below(a, b)
  return a[1] < b[1] or (a[1] == b[1] and a[2] < b[2])
end

local function after(id)
  return { id[1], id[2] + 1 }
end

local function greatest(a, b)
  if b and below(a, b) then return b end
  return a
end

local function fail(code, text)
  return redis.error_reply(code .. ' ' .. text)
end

-- Whether an id lies further ahead of the clock than clocks differ.
local function ahead(state, id)
  return id[1] > state.now + AHEAD_MS
end

local function clock_behind(state, id)
  return fail('CLOCK_BEHIND', string.format('the clock of this Redis is %.0f s behind the newest event (%s)',
    (id[1] - state.now) / 1000, format(id)))
end

local function now_ms()
  local time = redis.call('TIME')
  return tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
end

--------------------------------------------------------------------------------------------------------------------- keys

-- The common beginning of all keys, from that of `meta`.
local function base_of(meta_key)
  return string.match(meta_key or '', '^(.+:{0}:)meta$')
end

-- The other keys must be those of the same deployment: a slip would write to a log that nobody reads.
local function misplaced(keys, names)
  local base = base_of(keys[1])
  if not base then return 'KEYS[1] is <prefix>:{0}:meta' end
  for at, name in ipairs(names) do
    if keys[at + 1] ~= base .. name then
      return 'KEYS[' .. (at + 1) .. '] is ' .. base .. name
    end
  end
  return nil
end

------------------------------------------------------------------------------------------------------- settings and state

-- What was decoded last: settings change seldom.
local decoded = {}

local function settings(raw, which, default)
  if not raw then return default end
  local known = decoded[which]
  if known and known.raw == raw then return known.value end
  local ok, value = pcall(cjson.decode, raw)
  if not ok or type(value) ~= 'table' then return default end
  decoded[which] = { raw = raw, value = value }
  return value
end

local function longest_age(retention)
  local longest = retention.age or 0
  for _, rule in ipairs(retention.rules or {}) do
    longest = math.max(longest, rule.age or retention.age or 0)
  end
  return longest
end

-- What is kept of a topic: the rule with the longest prefix of its name.
local function keep_of(retention, topic)
  if not (retention.rules and retention.rules[1]) then return retention end
  local best, length = retention, -1
  for _, rule in ipairs(retention.rules or {}) do
    local prefix = rule.prefix or ''
    if #prefix > length and string.sub(topic, 1, #prefix) == prefix then
      best, length = rule, #prefix
    end
  end
  return {
    events = best.events or retention.events,
    bytes = best.bytes or retention.bytes,
    age = best.age or retention.age,
  }
end

-- Where the log stands. `missing`: there is none; `forgot`: the hash of last ids was deleted, so any may be missing.
local function state_of(meta_key, last_key)
  local meta = redis.call('HMGET', meta_key, 'born', 'last', 'horizon', 'retention', 'limits')
  local state = {
    meta_key = meta_key,
    last_key = last_key,
    now = now_ms(),
    born = parse(meta[1]),
    last = parse(meta[2]),
    horizon = parse(meta[3]) or parse(meta[1]) or { 0, 0 },
    raw_retention = meta[4],
    retention = settings(meta[4], 'retention', DEFAULT_RETENTION),
    limits = settings(meta[5], 'limits', DEFAULT_LIMITS),
  }
  state.missing = not state.born
  state.last = greatest(state.born or { 0, 0 }, state.last)
  state.forgot = not state.missing and redis.call('HEXISTS', last_key, '$') == 0
  if state.forgot then state.horizon = state.last end
  return state
end

-- Makes a log where there is none. It is born above everything that anybody has seen, so that every older cursor tells.
local function bear(state, heads_key, seen)
  -- A key of another type, put there by somebody, is an error before anything is written.
  redis.call('ZCARD', heads_key)
  if state.missing then
    local born = greatest({ state.now, 0 }, seen and after(seen))
    local newest = redis.call('ZREVRANGE', heads_key, 0, 0, 'WITHSCORES')
    if newest[2] then born = greatest(born, { tonumber(newest[2]) + 1, 0 }) end
    state.born, state.last, state.missing = born, born, false
    -- Whatever lies below the birth is forgotten. So the first entry of a topic names the birth as its predecessor, and the
    -- chain alone tells this log from the one before it.
    state.horizon = born
    redis.call('HSET', state.meta_key, 'format', FORMAT, 'born', format(born), 'last', format(born), 'horizon', format(born))
    -- Last ids of the log before this one lie below its birth and prove nothing any more.
    redis.call('DEL', state.last_key)
    redis.call('HSET', state.last_key, '$', 1)
  elseif state.forgot then
    redis.call('HSET', state.meta_key, 'horizon', format(state.horizon))
    redis.call('HSET', state.last_key, '$', 1)
    state.forgot = false
  end
end

-- The running total of bytes at an entry; entries that others wrote have none.
local function field_of(entry, name)
  for at = 1, #entry[2], 2 do
    if entry[2][at] == name then return entry[2][at + 1] end
  end
  return nil
end

local function total_of(entry)
  return tonumber(field_of(entry, 'b') or nil)
end

-- Returns the id of the newest entry, the running total of bytes, an error; and of the newest entry of ours: the id of the
-- event, and, if the topic has ended, that of the end.
local function newest(stream)
  local entries = redis.pcall('XREVRANGE', stream, '+', '-', 'COUNT', 1)
  if entries.err then return nil, 0, entries.err end
  if not entries[1] then return nil, 0 end
  local top = parse(entries[1][1])
  if not total_of(entries[1]) then
    entries = redis.call('XREVRANGE', stream, '+', '-', 'COUNT', FOREIGN)
  end
  for _, entry in ipairs(entries) do
    local bytes = total_of(entry)
    if bytes then
      local id = parse(entry[1])
      if field_of(entry, 'x') then return top, bytes, nil, parse(field_of(entry, 'p')), id end
      return top, bytes, nil, id, nil
    end
  end
  return top, 0, nil, #entries == FOREIGN and parse(entries[FOREIGN][1]) or nil, nil
end

-- "<last> <end>" -> last, end
local function parse_last(text)
  if not text then return nil, nil end
  local last, ended = string.match(text, '^(%S+) ?(%S*)$')
  return parse(last), parse(ended)
end

--------------------------------------------------------------------------------------------------------------- what is valid

-- Whether a text is UTF-8. Each well-formed sequence is replaced by a blank; what is left over is not well-formed.
local SEQUENCES = {
  '[\194-\223][\128-\191]',
  '\224[\160-\191][\128-\191]',
  '[\225-\236\238\239][\128-\191][\128-\191]',
  '\237[\128-\159][\128-\191]',
  '\240[\144-\191][\128-\191][\128-\191]',
  '[\241-\243][\128-\191][\128-\191][\128-\191]',
  '\244[\128-\143][\128-\191][\128-\191]',
}

local function is_utf8(text)
  if not string.find(text, '[\128-\255]') then return true end
  for _, sequence in ipairs(SEQUENCES) do
    text = string.gsub(text, sequence, ' ')
  end
  return not string.find(text, '[\128-\255]')
end

-- Control characters and whitespace beyond ASCII.
local NOT_IN_TOPICS = {
  '[%z\1-\32\127*{},]', '\194[\128-\160]', '\225\154\128', '\226\128[\128-\138\168\169\175]', '\226\129\159',
  '\227\128\128',
}

local function wrong_topic(topic)
  if #topic < 1 or #topic > 255 then return 'a topic has 1 to 255 bytes' end
  if string.sub(topic, 1, 1) == '$' then return 'topics that begin with $ are reserved for the gateway' end
  for _, pattern in ipairs(NOT_IN_TOPICS) do
    if string.find(topic, pattern) then
      return 'a topic may not contain control characters, whitespace, or any of * { } ,'
    end
  end
  if not is_utf8(topic) then return 'a topic is UTF-8' end
  return nil
end

local function wrong_type(kind)
  if #kind < 1 or #kind > 128 then return 'an event type has 1 to 128 bytes' end
  if string.sub(kind, 1, 1) == '$' then return 'event types that begin with $ are reserved for the gateway' end
  if string.find(kind, '[%z\r\n]') then return 'an event type may not contain a line break or NUL' end
  if not is_utf8(kind) then return 'an event type is UTF-8' end
  return nil
end

-- Bytes of an event on the wire: id, type unless it is message, one "data: " a line ("data:" where it is empty), and a
-- blank line.
local function wire_bytes(id, kind, data)
  local lines, breaks, filled = 1, 0, data ~= '' and 1 or 0
  -- Plain searches: a pattern looks at each character by itself.
  if string.find(data, '\n', 1, true) or string.find(data, '\r', 1, true) then
    local _
    local _, feeds = string.gsub(data, '\n', '')
    local _, returns = string.gsub(data, '\r', '')
    local _, pairs_of_both = string.gsub(data, '\r\n', '')
    lines, breaks = 1 + feeds + returns - pairs_of_both, feeds + returns
    _, filled = string.gsub(data, '[^\r\n]+', '')
  end
  local bytes = 4 + #id + 1 + 6 * lines + filled + #data - breaks + 1
  if kind ~= 'message' then bytes = bytes + 8 + #kind end
  return bytes
end

-------------------------------------------------------------------------------------------------------------------- append

-- The running totals of bytes that calls before this one left behind, by stream, with the last id to which they belong. It
-- spares a look at the newest entry, with all its data. What is not true any more names another id, and is not used.
local totals, total_ids, totals_count = {}, {}, 0
local TOTALS_MAX = 20000

local function remember(topic)
  if not total_ids[topic.stream] then
    if totals_count == TOTALS_MAX then totals, total_ids, totals_count = {}, {}, 0 end
    totals_count = totals_count + 1
  end
  total_ids[topic.stream], totals[topic.stream] = topic.last_text, topic.bytes
end

local function in_the_future(stream, id)
  return fail('TOPIC_BROKEN', 'the stream ' .. stream .. ' holds the entry ' .. format(id)
    .. ', which lies in the future and is not of the gateway: delete it')
end

-- What is known of one topic while a call lasts.
local function topic_of(state, name, stream, channel)
  local text = redis.call('HGET', state.last_key, name)
  local last, ended = parse_last(text)
  local top, bytes, err, ours, ours_end
  if text and total_ids[stream] == text then
    bytes = totals[stream]
  else
    top, bytes, err, ours, ours_end = newest(stream)
  end
  if err then return nil, fail('TOPIC_BROKEN', 'the key ' .. stream .. ' is not a stream of the gateway: ' .. err) end
  -- Somebody wrote to the stream itself. A step into the future would take the ids of every topic with it.
  if top and ahead(state, top) and below(state.last, top) then return nil, in_the_future(stream, top) end
  -- What was forgotten lies at or below the horizon, unless the stream still has it.
  local is_new = not last
  if is_new then ended = ours_end end
  -- Nothing lies below the birth, not even what a log before this one remembers.
  last = greatest(last or ours or state.horizon, state.born)
  local keep = keep_of(state.retention, name)
  return {
    name = name, stream = stream, channel = channel,
    last = last, last_text = format(last),
    top = greatest(last, top),
    is_new = is_new,
    ended = ended,
    bytes = bytes, bytes_before = bytes,
    keep = keep, most = string.format('%d', keep.events or 2^53),
  }, nil
end

-- This is where the time of a batch goes, so numbers are compared in place.
local function next_id(state, topic)
  local ms, seq, last, top = state.now, 0, state.last, topic.top
  if last[1] >= ms then ms, seq = last[1], last[2] + 1 end
  if top[1] > ms or (top[1] == ms and top[2] >= seq) then ms, seq = top[1], top[2] + 1 end
  return { ms, seq }
end

-- XADD refuses an id below one that was in the stream and was deleted by somebody: then the id goes above that one, or, where
-- that one lies in the future, the stream has to forget it.
local function add_again(state, topic, id, ...)
  local info, generated = redis.pcall('XINFO', 'STREAM', topic.stream), nil
  for at = 1, #info, 2 do
    if info[at] == 'last-generated-id' then generated = parse(info[at + 1]) end
  end
  if generated and not ahead(state, generated) then
    id = greatest(id, after(generated))
  else
    redis.pcall('XSETID', topic.stream, format(topic.top))
  end
  local again = redis.pcall('XADD', topic.stream, format(id), ...)
  if not (type(again) == 'table' and again.err) then return id, again end
  if generated and ahead(state, generated) then return nil, in_the_future(topic.stream, generated) end
  return nil, fail('TOPIC_BROKEN', 'the stream ' .. topic.stream .. ' takes no entry: ' .. again.err)
end

-- Who may write but not publish has stored the event all the same: replicas find it by `heads`, a little later.
local function say(topic, message)
  redis.pcall('SPUBLISH', topic.channel, message)
end

local function store(state, topic, kind, data)
  local id = next_id(state, topic)
  local text, previous = format(id), topic.last_text
  local bytes = topic.bytes + wire_bytes(text, kind, data)
  -- By count the stream is trimmed here, for nothing; a whole node at a time.
  local added = redis.pcall('XADD', topic.stream, 'MAXLEN', '~', topic.most, text,
    'e', kind, 'd', data, 'p', previous, 'b', string.format('%d', bytes))
  if type(added) == 'table' then
    id, added = add_again(state, topic, id, 'e', kind, 'd', data, 'p', previous, 'b', string.format('%d', bytes))
    if not id then return nil, added end
    text = added
  end
  state.last, topic.last, topic.top, topic.bytes, topic.dirty = id, id, id, bytes, true
  topic.last_text = text
  say(topic, text .. ' ' .. previous .. ' e ' .. kind .. '\n' .. data)
  return text, nil
end

local function store_end(state, topic)
  local id = next_id(state, topic)
  local text, previous = format(id), topic.last_text
  local added = redis.pcall('XADD', topic.stream, text, 'p', previous, 'b', string.format('%d', topic.bytes), 'x', '1')
  if type(added) == 'table' then
    id, added = add_again(state, topic, id, 'p', previous, 'b', string.format('%d', topic.bytes), 'x', '1')
    if not id then return nil, added end
    text = added
  end
  state.last, topic.top, topic.ended, topic.dirty = id, id, id, true
  say(topic, text .. ' ' .. previous .. ' x')
  return text, nil
end

-- Appends one event, and the end of its topic after it. Returns the id and whether it is a duplicate, or an error.
local function append(state, topic, kind, data, ending, idem_key)
  local payload
  if idem_key then
    payload = redis.sha1hex((ending and 'x' or '') .. (data and 'd' or '') .. '\n' .. kind .. '\n' .. (data or ''))
    local known = redis.call('GET', idem_key)
    if known then
      local id, before = string.match(known, '^(%S+) (%S+)$')
      if before ~= payload then
        return nil, nil, fail('IDEMPOTENCY_MISMATCH', 'this key was used for another payload on the same topic')
      end
      -- Changes nothing, but is a write: whoever waits for replicas waits for what was stored the first time, too.
      redis.call('SET', idem_key, known, 'KEEPTTL')
      return id, true, nil
    end
  end
  if topic.ended then
    return nil, nil, fail('TOPIC_FINISHED', 'the topic ' .. topic.name .. ' has ended')
  end
  local id, err
  if data then
    id, err = store(state, topic, kind, data)
    if err then return nil, nil, err end
  end
  if ending then
    local end_id
    end_id, err = store_end(state, topic)
    if err then return nil, nil, err end
    id = id or end_id
  end
  local window = state.limits.idempotency_window or DEFAULT_LIMITS.idempotency_window
  if idem_key and window > 0 then
    redis.call('SET', idem_key, id .. ' ' .. payload, 'PX', string.format('%.0f', window))
  end
  return id, false, nil
end

-- The oldest entries go until the rest fits the bytes. Whole nodes only, so that nothing has to be rewritten. The more a call
-- has written, the more of them it may have to read.
local function trim_bytes(topic)
  local surplus = topic.bytes - topic.keep.bytes
  local from, cut, count = '-', nil, 4
  for _ = 1, 16 + (topic.bytes - topic.bytes_before) / 2048 do
    local entries = redis.call('XRANGE', topic.stream, from, '+', 'COUNT', count)
    if #entries == 0 then break end
    local done = false
    for _, entry in ipairs(entries) do
      local bytes = total_of(entry)
      if not below(parse(entry[1]) or topic.top, topic.last) then done = true break end
      cut = entry[1]
      if bytes and bytes >= surplus then done = true break end
    end
    if done then break end
    from, count = '(' .. entries[#entries][1], 64
  end
  if cut then redis.call('XTRIM', topic.stream, 'MINID', '~', format(after(parse(cut)))) end
end

local function trim(state, topic)
  local keep = topic.keep
  if keep.bytes and topic.bytes > keep.bytes
    and math.floor(topic.bytes / BYTES_STEP) ~= math.floor(topic.bytes_before / BYTES_STEP) then
    trim_bytes(topic)
  end
  if keep.age then
    redis.call('XTRIM', topic.stream, 'MINID', '~', string.format('%d', math.max(0, state.now - keep.age)))
    -- From the newest id on, which may lie ahead of the clock.
    redis.call('PEXPIRE', topic.stream, string.format('%d', math.max(1, keep.age, topic.top[1] + keep.age - state.now)))
  end
end

-- Forgets last ids that are older than twice the longest retention, and says up to where that was done.
local function sweep(state, heads_key, count)
  local age = 2 * longest_age(state.retention)
  if age == 0 then return end
  local old = redis.call('ZRANGEBYSCORE', heads_key, '-inf', string.format('(%.0f', state.now - age), 'LIMIT', 0, count)
  if #old == 0 then return end
  local known = redis.call('HMGET', state.last_key, unpack(old))
  for _, text in ipairs(known) do
    local last, ended = parse_last(text or nil)
    state.horizon = greatest(state.horizon, greatest(last or { 0, 0 }, ended))
  end
  redis.call('HDEL', state.last_key, unpack(old))
  redis.call('ZREM', heads_key, unpack(old))
  redis.call('HSET', state.meta_key, 'horizon', format(state.horizon))
end

-- Writes down where the log and its topics stand now.
local function settle(state, heads_key, topics)
  -- More than what is new, so that they do not grow for ever.
  local dirty, count = false, SWEEP
  for _, topic in pairs(topics) do
    if topic.dirty then
      dirty = true
      if topic.is_new then count = count + 1 end
      local text = topic.last_text
      if topic.ended then text = text .. ' ' .. format(topic.ended) else remember(topic) end
      redis.call('HSET', state.last_key, topic.name, text)
      redis.call('ZADD', heads_key, string.format('%d', topic.top[1]), topic.name)
    end
  end
  if dirty then redis.call('HSET', state.meta_key, 'last', format(state.last)) end
  for _, topic in pairs(topics) do
    if topic.dirty then trim(state, topic) end
  end
  sweep(state, heads_key, count)
end

-------------------------------------------------------------------------------------------------------------------- ingest

local ENDS = { ['1'] = true, ['true'] = true, ['0'] = false, ['false'] = false }
-- What a dead letter says in place of the code that a producer would be answered with.
local REASONS = {
  TOPIC_FINISHED = 'topic_finished', IDEMPOTENCY_MISMATCH = 'idempotency_mismatch', TOPIC_BROKEN = 'topic_broken',
}

-- A piece of foreign bytes that can be shown.
local function shown(text)
  return (string.gsub(string.sub(text, 1, 64), '[^\32-\126]', '?'))
end

-- What an entry asks for: topic, type, data, whether the topic ends, key; else nil, a reason and a detail. The same is refused as
-- by POST /publish. `valid`: topics and types that were looked at before.
local function event_of(entry, limit, valid)
  local fields, topic, kind, data, ending, key = entry[2], nil, nil, nil, nil, nil
  for at = 1, #fields, 2 do
    -- A chain of comparisons: a table of what was found would be made for each entry.
    local name, value, before = fields[at], fields[at + 1], nil
    if name == 'topic' then
      before, topic = topic, value
    elseif name == 'data' then
      before, data = data, value
    elseif name == 'event' then
      before, kind = kind, value
    elseif name == 'key' then
      before, key = key, value
    elseif name == 'end' then
      before, ending = ending, value
    else
      return nil, 'field_unknown', 'there is no field ' .. shown(name) .. ': topic, event, data, end, key'
    end
    if before then return nil, 'field_repeated', 'the field ' .. name .. ' stands there twice' end
  end
  if not topic then return nil, 'topic_missing', 'there is no field topic' end
  if not valid.topics[topic] then
    local wrong = wrong_topic(topic)
    if wrong then return nil, 'topic_invalid', wrong end
    valid.topics[topic] = true
  end
  kind = kind or 'message'
  if not valid.types[kind] then
    local wrong = wrong_type(kind)
    if wrong then return nil, 'type_invalid', wrong end
    valid.types[kind] = true
  end
  local ends = false
  if ending then
    ends = ENDS[ending]
    if ends == nil then return nil, 'end_invalid', 'end is 1, true, 0 or false' end
  end
  -- Without data, an end is all that there is to store.
  if not data and not ends then data = '' end
  if data then
    if #data > limit then
      return nil, 'event_too_large', string.format('data has %d bytes, the limit is %.0f', #data, limit)
    end
    if not is_utf8(data) then return nil, 'utf8_invalid', 'data is UTF-8' end
  end
  if key and (#key < 1 or #key > 255 or string.find(key, '[^\32-\126]')) then
    return nil, 'idempotency_invalid', 'a key has 1 to 255 printable ASCII characters'
  end
  return topic, kind, data, ends, key
end

-- Keeps an entry that cannot be moved. What is very large is cut, so that no producer fills the memory with it. `total` is the
-- running total of bytes; the new one is returned.
local function bury(state, dead_key, total, entry, reason, detail)
  local words = { 'reason', reason, 'detail', detail, 'id', entry[1], 'at', string.format('%.0f', state.now) }
  local fields, room, cut, kept = entry[2], DEAD.letter, 0, {}
  for at = 1, #fields, 2 do
    local name, value = fields[at], fields[at + 1]
    if at < 2 * DEAD.fields and #name <= DEAD.name then
      local piece = string.sub(value, 1, math.max(0, room))
      room, cut = room - #name - #piece, cut + #value - #piece
      kept[#kept + 1], kept[#kept + 2] = 'f:' .. name, piece
    else
      cut = cut + #name + #value
    end
  end
  total = total + DEAD.letter - room + 64
  words[#words + 1], words[#words + 2] = 'b', string.format('%.0f', total)
  if cut > 0 then words[#words + 1], words[#words + 2] = 'cut', string.format('%.0f', cut) end
  for at = 1, #kept do words[#words + 1] = kept[at] end
  redis.call('XADD', dead_key, 'MAXLEN', '~', DEAD.entries, '*', unpack(words))
  -- The oldest go until the rest fits. Each came with a total, too, so that seldom more than one has to go.
  for _ = 1, 16 do
    local oldest = redis.call('XRANGE', dead_key, '-', '+', 'COUNT', 1)[1]
    if not oldest or total - (total_of(oldest) or 0) <= DEAD.bytes then break end
    redis.call('XDEL', dead_key, oldest[1])
  end
  return total
end

------------------------------------------------------------------------------------------------------------ the functions

-- What takes hardly any memory, or gives some back, is done when the memory is full, too: readers go on then.
local function register_small(name, callback)
  redis.register_function({ function_name = name, callback = callback, flags = { 'allow-oom' } })
end

--[[ tidegate_version: the version of this library.
KEYS none. ARGV none. Reply: a number. ]]
redis.register_function({
  function_name = 'tidegate_version',
  callback = function() return VERSION end,
  flags = { 'no-writes', 'allow-stale' },
})

--[[ tidegate_publish: appends one event to a topic. For any producer.
KEYS  1 T:{0}:meta  2 T:{0}:last  3 T:{0}:heads  4 T:{0}:topic:<topic>  5 T:{0}:ch:<topic>  [6 T:{0}:idem:<any>]
      KEYS[6] makes a repetition safe: for the window (5 minutes by default) a call with the same one is answered with the
      first id. Let it be a hash of who publishes, the topic, and a key of the publisher's own.
ARGV  1 type, "" for message  2 data, UTF-8  [3 "end": the topic is finished after this event]
Reply [id, "stored" or "duplicate"]
Errors KEYS_INVALID, TOPIC_INVALID, TYPE_INVALID, DATA_INVALID, EVENT_TOO_LARGE, TOPIC_FINISHED, IDEMPOTENCY_MISMATCH,
      TOPIC_BROKEN; OOM from Redis itself.
Why atomic: two publishers at once would give one id twice, or break the chain of previous ids. ]]
redis.register_function('tidegate_publish', function(keys, args)
  if #keys < 5 or #keys > 6 then return fail('KEYS_INVALID', 'five or six keys are expected: meta, last, heads, topic, ch, idem') end
  local wrong = misplaced(keys, { 'last', 'heads' })
  if wrong then return fail('KEYS_INVALID', wrong) end
  local base = base_of(keys[1])
  if string.sub(keys[4], 1, #base + 6) ~= base .. 'topic:' then
    return fail('KEYS_INVALID', 'KEYS[4] is ' .. base .. 'topic:<topic>')
  end
  local name = string.sub(keys[4], #base + 7)
  if keys[5] ~= base .. 'ch:' .. name then return fail('KEYS_INVALID', 'KEYS[5] is ' .. base .. 'ch:' .. name) end
  if keys[6] and string.sub(keys[6], 1, #base + 5) ~= base .. 'idem:' then
    return fail('KEYS_INVALID', 'KEYS[6] begins with ' .. base .. 'idem:')
  end
  wrong = wrong_topic(name)
  if wrong then return fail('TOPIC_INVALID', wrong) end
  local kind, data, ending = args[1], args[2], args[3]
  if not data then return fail('DATA_INVALID', 'two arguments are expected: type ("" for message), data') end
  if #args > 3 or (ending and ending ~= 'end') then
    return fail('DATA_INVALID', 'the third argument is "end" or is left out, and there is no fourth')
  end
  if kind == '' then kind = 'message' end
  wrong = wrong_type(kind)
  if wrong then return fail('TYPE_INVALID', wrong) end
  local state = state_of(keys[1], keys[2])
  local limit = state.limits.event_bytes or DEFAULT_LIMITS.event_bytes
  if #data > limit then
    return fail('EVENT_TOO_LARGE', string.format('data has %d bytes, the limit is %.0f', #data, limit))
  end
  if not is_utf8(data) then return fail('DATA_INVALID', 'data is UTF-8') end
  bear(state, keys[3])
  local topic, err = topic_of(state, name, keys[4], keys[5])
  if err then return err end
  local id, duplicate
  id, duplicate, err = append(state, topic, kind, data, ending ~= nil, keys[6])
  settle(state, keys[3], { topic })
  if err then return err end
  return { id, duplicate and 'duplicate' or 'stored' }
end)

--[[ tidegate_publish_batch: appends many events, in their order. For the gateway, which has checked them.
KEYS  1 meta  2 last  3 heads, then for each topic: its stream, its channel; then idempotency keys
ARGV  1 number of topics, then for each its name; then for each event: number of its topic (from 1), "" or "x" (the topic
      ends after it) or "X" (only the end), type, data, number of its idempotency key (from 1) or 0
Reply for each event "+<id>", "=<id>" for a duplicate, or "-<CODE> <text>"; one event's error does not stop the others.
Why atomic: as tidegate_publish; and a batch of one publisher stays together. ]]
redis.register_function('tidegate_publish_batch', function(keys, args)
  local wrong = misplaced(keys, { 'last', 'heads' })
  if wrong then return fail('KEYS_INVALID', wrong) end
  local count = tonumber(args[1])
  local idem = 3 + 2 * count
  local first = 2 + count
  local state = state_of(keys[1], keys[2])
  bear(state, keys[3])
  local topics, replies = {}, {}
  local function run()
    for at = first, #args, 5 do
      local which = args[at]
      local topic, err = topics[which], nil
      if not topic then
        local which = tonumber(which)
        topic, err = topic_of(state, args[1 + which], keys[2 + 2 * which], keys[3 + 2 * which])
        topics[args[at]] = topic
      end
      local id, duplicate
      if topic then
        local flag, data, number = args[at + 1], args[at + 3], args[at + 4]
        if flag == 'X' then data = nil end
        local idem_key = number ~= '0' and keys[idem + tonumber(number)] or nil
        id, duplicate, err = append(state, topic, args[at + 2], data, flag ~= '', idem_key)
      end
      if err then
        replies[#replies + 1] = '-' .. err.err
      else
        replies[#replies + 1] = (duplicate and '=' or '+') .. id
      end
    end
  end
  -- Whatever happens, what was stored is written down: ids never go back.
  local ok, problem = pcall(run)
  settle(state, keys[3], topics)
  if not ok then error(problem) end
  return replies
end)

--[[ tidegate_ingest: moves the oldest entries of T:{0}:ingest into the logs of their topics, in their order. Any number of
replicas may call it at once: an entry is moved, or becomes a dead letter, by the same step that deletes it.
KEYS  1 meta  2 last  3 heads  4 ingest  5 ingest:dead, then for each topic: its stream, its channel; then idempotency keys
ARGV  1 id of the last entry to move  2 how many, at most: 1 to 1000  3 number of topics, then for each its name; then for
      each idempotency key: number of its topic (from 1), the key as the entry has it
      It begins with the first entry that is there, whatever the caller has seen, and stops before one whose topic or key is
      not among the keys, for somebody has changed the stream.
Reply [moved, duplicates, dead letters, id of the entry before which it stopped, or ""]
Errors KEYS_INVALID, INGEST_BROKEN: ingest, or ingest:dead, takes no entries; OOM, mostly from Redis itself.
Why atomic: an entry that was appended and not deleted would be appended again. ]]
redis.register_function('tidegate_ingest', function(keys, args)
  local wrong = misplaced(keys, { 'last', 'heads', 'ingest', 'ingest:dead' })
  if wrong then return fail('KEYS_INVALID', wrong) end
  local ingest, dead_key = keys[4], keys[5]
  local count = tonumber(args[3])
  local names, idempotency = {}, {}
  for number = 1, count do names[args[3 + number]] = number end
  local first = 5 + 2 * count
  for at = 4 + count, #args, 2 do
    first = first + 1
    idempotency[args[at] .. ' ' .. args[at + 1]] = keys[first]
  end
  local entries = redis.pcall('XRANGE', ingest, '-', args[1], 'COUNT', args[2])
  if entries.err then return fail('INGEST_BROKEN', 'the key ' .. ingest .. ' is no stream: ' .. entries.err) end
  local letters = redis.pcall('XLEN', dead_key)
  if type(letters) == 'table' then
    return fail('INGEST_BROKEN', 'the key ' .. dead_key .. ' is no stream: ' .. letters.err)
  end
  if #entries == 0 then return { 0, 0, 0, '' } end
  local state = state_of(keys[1], keys[2])
  bear(state, keys[3])
  local limit = state.limits.event_bytes or DEFAULT_LIMITS.event_bytes
  local topics, moved, duplicates, dead, total, done, stopped = {}, 0, 0, 0, nil, 0, ''
  local valid = { topics = {}, types = {} }
  local function letter(entry, reason, detail)
    if not total then
      local newest_letter = redis.call('XREVRANGE', dead_key, '+', '-', 'COUNT', 1)[1]
      total = newest_letter and total_of(newest_letter) or 0
    end
    total = bury(state, dead_key, total, entry, reason, detail)
    dead, done = dead + 1, done + 1
  end
  local function run()
    while done < #entries do
      local entry = entries[done + 1]
      local name, kind, data, ends, key = event_of(entry, limit, valid)
      if not name then
        letter(entry, kind, data)
      else
        local number = names[name]
        local idem_key = key and number and idempotency[number .. ' ' .. key] or nil
        if not number or (key and not idem_key) then
          stopped = entry[1]
          return
        end
        local topic, err = topics[number], nil
        if not topic then
          topic, err = topic_of(state, name, keys[4 + 2 * number], keys[5 + 2 * number])
          topics[number] = topic
        end
        local id, duplicate
        if topic then id, duplicate, err = append(state, topic, kind, data, ends, idem_key) end
        if err then
          local code, text = string.match(err.err, '^(%S+) (.*)$')
          letter(entry, REASONS[code] or 'failed', text or err.err)
        else
          if duplicate then duplicates = duplicates + 1 else moved = moved + 1 end
          done = done + 1
        end
      end
    end
  end
  local failure
  local function guarded()
    while true do
      local ok, problem = pcall(run)
      if ok then return end
      failure = type(problem) == 'table' and problem.err or tostring(problem)
      -- That there is no memory is no fault of the entry: it waits. Whatever else fails would do so for ever.
      if string.find(failure, 'OOM', 1, true) then return end
      letter(entries[done + 1], 'failed', failure)
    end
  end
  -- Whatever happens: what was stored is written down, and is not there to be moved again.
  local ok, problem = pcall(guarded)
  settle(state, keys[3], topics)
  if done > 0 then
    local through = parse(entries[done][1])
    if through then
      redis.call('XTRIM', ingest, 'MINID', '=', format(after(through)))
    else
      for at = 1, done do redis.call('XDEL', ingest, entries[at][1]) end
    end
  end
  if done == 0 and stopped == '' then
    if ok then return fail('OOM', failure) end
    return fail('INGEST_BROKEN', type(problem) == 'table' and problem.err or tostring(problem))
  end
  return { moved, duplicates, dead, stopped }
end)

--[[ tidegate_ingest_lease: says who moves the entries of ingest, for a while, and what waits there. The lease spares work, and
nothing depends on it.
KEYS  1 meta  2 ingest  3 ingest:dead  4 ingest:lease
ARGV  1 id of the replica  2 milliseconds of the lease; 0 to give it back, "" only to ask
Reply [1 if this replica has the lease now, else 0; entries that wait; id of the oldest or ""; dead letters; milliseconds of
      the clock]
Errors KEYS_INVALID, INGEST_BROKEN.
Why atomic: a lease that has ended meanwhile may be somebody else's. ]]
register_small('tidegate_ingest_lease', function(keys, args)
  local wrong = misplaced(keys, { 'ingest', 'ingest:dead', 'ingest:lease' })
  if wrong then return fail('KEYS_INVALID', wrong) end
  local waiting, dead = redis.pcall('XLEN', keys[2]), redis.pcall('XLEN', keys[3])
  local oldest = redis.pcall('XRANGE', keys[2], '-', '+', 'COUNT', 1)
  for at, reply in ipairs({ waiting, dead }) do
    if type(reply) == 'table' then
      return fail('INGEST_BROKEN', 'the key ' .. keys[1 + at] .. ' is no stream: ' .. reply.err)
    end
  end
  local holder = redis.call('GET', keys[4])
  local held = holder == args[1]
  if args[2] == '0' then
    if held then redis.call('DEL', keys[4]) end
    held = false
  elseif args[2] ~= '' and (held or not holder) then
    redis.call('SET', keys[4], args[1], 'PX', args[2])
    held = true
  end
  return { held and 1 or 0, waiting, oldest[1] and oldest[1][1] or '', dead, string.format('%.0f', now_ms()) }
end)

--[[ tidegate_init: makes the log where there is none, and writes the settings of the deployment.
KEYS  1 meta  2 last  3 heads
ARGV  1 highest id that the replica has seen, or 0-0  2 retention  3 limits, both JSON
      4 "replace": these settings take the place of others; "": only where there are none
Reply [born]
Errors FORMAT_UNKNOWN: the log was written by another version. CLOCK_BEHIND: as tidegate_raise.
Why atomic: two replicas that start at once must agree on one birth. ]]
register_small('tidegate_init', function(keys, args)
  local wrong = misplaced(keys, { 'last', 'heads' })
  if wrong then return fail('KEYS_INVALID', wrong) end
  local known = redis.call('HGET', keys[1], 'format')
  if known and known ~= FORMAT then
    return fail('FORMAT_UNKNOWN', 'the log has format ' .. known .. ', this version reads and writes ' .. FORMAT)
  end
  local state = state_of(keys[1], keys[2])
  local seen = parse(args[1])
  if state.missing and seen and ahead(state, seen) then return clock_behind(state, seen) end
  bear(state, keys[3], seen)
  if args[4] == 'replace' or not state.raw_retention then
    redis.call('HSET', keys[1], 'retention', args[2], 'limits', args[3])
  end
  return { format(state.born) }
end)

--[[ tidegate_raise: ids given from now on lie above the highest id that a replica has seen. Called after each connect, so that
ids keep increasing through a failover, a restored file, a clock that went back.
KEYS  1 meta  2 last  3 heads
ARGV  1 highest id seen  2 the birth that the replica knows, or ""  [3 highest id that a position of that log has stated]
Reply [born, last]
Errors CLOCK_BEHIND: the id lies over 10 minutes ahead of the clock of this server. ID_INVALID.
A log that is not the one that the replica knows is born above what the replica has seen: cursors of the old one must tell.
Why atomic: a publish in between would be given an id below it. ]]
register_small('tidegate_raise', function(keys, args)
  local wrong = misplaced(keys, { 'last', 'heads' })
  if wrong then return fail('KEYS_INVALID', wrong) end
  local seen = parse(args[1])
  if not seen then return fail('ID_INVALID', 'ARGV[1] is <milliseconds>-<sequence>') end
  local state = state_of(keys[1], keys[2])
  if below(state.last, seen) and ahead(state, seen) then return clock_behind(state, seen) end
  bear(state, keys[3], seen)
  -- What lies above this log's last id is certainly not of it. What does not may be: only what a position confirmed is not.
  local foreign = below(state.last, seen) and seen or parse(args[3]) or seen
  if args[2] ~= '' and args[2] ~= format(state.born) and not below(foreign, state.born) then
    state.born = after(foreign)
    state.last = greatest(state.last, state.born)
    state.horizon = greatest(state.horizon, state.born)
    redis.call('HSET', keys[1], 'born', format(state.born), 'last', format(state.last), 'horizon', format(state.horizon))
  elseif below(state.last, seen) then
    state.last = seen
    redis.call('HSET', keys[1], 'last', format(seen))
  end
  return { format(state.born), format(state.last) }
end)

--[[ tidegate_position: where the log and some of its topics stand.
KEYS  1 meta  2 last  3 lost, then the stream of each topic
ARGV  the names of the topics, in the same order
Reply [born, last, horizon, milliseconds of the clock, then for each topic: last id or "", id of its end or "", lost ranges,
      id of the oldest entry that is still there or ""]
Errors NOT_INITIALISED: there is no log; tidegate_init makes one.
Why atomic: the last id of the log and those of its topics must belong to the same moment. ]]
redis.register_function({
  function_name = 'tidegate_position',
  callback = function(keys, args)
    local wrong = misplaced(keys, { 'last', 'lost' })
    if wrong then return fail('KEYS_INVALID', wrong) end
    local state = state_of(keys[1], keys[2])
    if state.missing then return fail('NOT_INITIALISED', 'there is no log yet') end
    local reply = { format(state.born), format(state.last), format(state.horizon), string.format('%.0f', state.now) }
    if #args == 0 then return reply end
    local lasts = redis.call('HMGET', keys[2], unpack(args))
    local lost = redis.call('HMGET', keys[3], unpack(args))
    for at = 1, #args do
      local last, ended = parse_last(lasts[at] or nil)
      if not last then
        local _, _, _, ours, ours_end = newest(keys[3 + at])
        last, ended = ours, ours_end
      end
      local none = not last or not below(state.born, last)
      reply[#reply + 1] = none and '' or format(last)
      reply[#reply + 1] = ended and format(ended) or ''
      reply[#reply + 1] = lost[at] or ''
      local oldest = redis.pcall('XRANGE', keys[3 + at], '-', '+', 'COUNT', 1)
      reply[#reply + 1] = oldest[1] and oldest[1][1] or ''
    end
    return reply
  end,
  flags = { 'no-writes' },
})

--[[ tidegate_summaries: how much is kept of topics.
KEYS  1 meta  2 last, then the stream of each topic
ARGV  the names of the topics, in the same order; not more than some hundred, for it looks at both ends of each
Reply for each topic: last id or "", id of its end or "", number of events, their bytes on the wire, id of the oldest or ""
Errors NOT_INITIALISED: there is no log; tidegate_init makes one.
A function, because only figures travel, not the data of the events at both ends. ]]
redis.register_function({
  function_name = 'tidegate_summaries',
  callback = function(keys, args)
    local wrong = misplaced(keys, { 'last' })
    if wrong then return fail('KEYS_INVALID', wrong) end
    local state = state_of(keys[1], keys[2])
    if state.missing then return fail('NOT_INITIALISED', 'there is no log yet') end
    local reply = {}
    if #args == 0 then return reply end
    local lasts = redis.call('HMGET', keys[2], unpack(args))
    for at = 1, #args do
      local stream = keys[2 + at]
      local last, ended = parse_last(lasts[at] or nil)
      local _, total, err, ours, ours_end = newest(stream)
      if not last then last, ended = ours, ours_end end
      local none = not last or not below(state.born, last)
      local count, bytes, first = 0, 0, nil
      if not err then
        count = redis.call('XLEN', stream)
        -- The end is no event.
        if ours_end then count = count - 1 end
        local entries = redis.call('XRANGE', stream, '-', '+', 'COUNT', 1)
        if entries[1] and not total_of(entries[1]) then
          entries = redis.call('XRANGE', stream, '-', '+', 'COUNT', FOREIGN)
        end
        for _, entry in ipairs(entries) do
          local before = total_of(entry)
          if before and not field_of(entry, 'x') then
            first = entry[1]
            local own = wire_bytes(first, field_of(entry, 'e') or 'message', field_of(entry, 'd') or '')
            bytes = math.max(0, total - before + own)
            break
          end
        end
      end
      reply[#reply + 1] = none and '' or format(last)
      reply[#reply + 1] = ended and format(ended) or ''
      reply[#reply + 1] = string.format('%d', count)
      reply[#reply + 1] = string.format('%d', bytes)
      reply[#reply + 1] = first or ''
    end
    return reply
  end,
  flags = { 'no-writes' },
})

--[[ tidegate_lost: records that entries of a topic were acknowledged and then lost.
KEYS  1 meta  2 lost  3 channel of the topic
ARGV  1 topic  2 id before the range  3 last id of the range
Reply the number of ranges that are remembered of the topic, at most 16: the newest stay.
Why atomic: two replicas may find the same loss at once; who joins the topic reads it or hears of it. ]]
register_small('tidegate_lost', function(keys, args)
  local wrong = misplaced(keys, { 'lost', 'ch:' .. args[1] })
  if wrong then return fail('KEYS_INVALID', wrong) end
  local range = args[2] .. '..' .. args[3]
  local ranges, recorded = {}, false
  for known in string.gmatch(redis.call('HGET', keys[2], args[1]) or '', '%S+') do
    recorded = recorded or known == range
    ranges[#ranges + 1] = known
  end
  if recorded then return #ranges end
  ranges[#ranges + 1] = range
  while #ranges > 16 do table.remove(ranges, 1) end
  redis.call('HSET', keys[2], args[1], table.concat(ranges, ' '))
  redis.pcall('SPUBLISH', keys[3], args[3] .. ' ' .. args[2] .. ' l')
  return #ranges
end)

--[[ tidegate_delete: takes every event of a topic. Its last id and its end stay, so that cursors are judged truthfully.
KEYS  1 meta  2 last  3 heads  4 stream  5 channel
ARGV  1 topic
Reply [number of entries that were there, the id up to which everything is gone, or ""]
Why atomic: replicas must hear of it in its place among the events. ]]
register_small('tidegate_delete', function(keys, args)
  local wrong = misplaced(keys, { 'last', 'heads', 'topic:' .. args[1], 'ch:' .. args[1] })
  if wrong then return fail('KEYS_INVALID', wrong) end
  local last, ended = parse_last(redis.call('HGET', keys[2], args[1]))
  local _, _, _, ours = newest(keys[4])
  local through = greatest(greatest(last or { 0, 0 }, ended), ours)
  local count = redis.pcall('XLEN', keys[4])
  if type(count) == 'table' then count = 0 end
  if count > 0 and ended then count = count - 1 end
  redis.call('UNLINK', keys[4])
  if through[1] == 0 then return { count, '' } end
  if not last and ours then
    redis.call('HSET', keys[2], args[1], format(ours))
    redis.call('ZADD', keys[3], string.format('%.0f', ours[1]), args[1])
  end
  local text = format(through)
  redis.call('SPUBLISH', keys[5], text .. ' ' .. text .. ' d')
  return { count, text }
end)

--[[ tidegate_replica: renews the lease of a replica, or gives it back.
KEYS  1 meta  2 replicas
ARGV  1 id of the replica  2 milliseconds of the lease, 0 to give it back  3 what it says of itself, JSON
Reply the number of replicas that are alive. Those whose lease is over are removed.
Why atomic: leases are judged by the clock of this server, of which there is one. ]]
register_small('tidegate_replica', function(keys, args)
  local wrong = misplaced(keys, { 'replicas' })
  if wrong then return fail('KEYS_INVALID', wrong) end
  local now, lease = now_ms(), tonumber(args[2])
  if lease > 0 then
    redis.call('HSET', keys[2], args[1], string.format('%.0f %s', now + lease, args[3]))
  else
    redis.call('HDEL', keys[2], args[1])
  end
  local all = redis.call('HGETALL', keys[2])
  local alive = 0
  for at = 1, #all, 2 do
    local ends = tonumber(string.match(all[at + 1], '^%d+'))
    if ends and ends > now then
      alive = alive + 1
    else
      redis.call('HDEL', keys[2], all[at])
    end
  end
  return alive
end)

--[[ tidegate_replicas: what each live replica says of itself.
KEYS  1 meta  2 replicas
ARGV  none
Reply JSON texts, one for each. ]]
redis.register_function({
  function_name = 'tidegate_replicas',
  callback = function(keys)
    local wrong = misplaced(keys, { 'replicas' })
    if wrong then return fail('KEYS_INVALID', wrong) end
    local now, reply = now_ms(), {}
    local all = redis.call('HGETALL', keys[2])
    for at = 2, #all, 2 do
      local ends, text = string.match(all[at], '^(%d+) (.*)$')
      if ends and tonumber(ends) > now then reply[#reply + 1] = text end
    end
    return reply
  end,
  flags = { 'no-writes' },
})

----------------------------------------------------------------------------------------------------------------- presence

-- A user as it stands in the data of an event. Bytes above ASCII are UTF-8 already.
local function user_json(user)
  local text = string.gsub(user, '[%z\1-\31"\\]', function(byte)
    return string.format('\\u%04x', string.byte(byte))
  end)
  return '{"user":"' .. text .. '"}'
end

-- The keys of presence: those of the log, then those of the replica, then three of each topic.
local function misplaced_presence(keys, replica, names)
  local wanted = { 'last', 'heads', 'presences', 'users', 'presence-of:' .. replica }
  for _, name in ipairs(names) do
    wanted[#wanted + 1] = 'presence:' .. name
    wanted[#wanted + 1] = 'topic:$presence/' .. name
    wanted[#wanted + 1] = 'ch:$presence/' .. name
  end
  if #keys ~= #wanted + 1 then return #wanted + 1 .. ' keys are expected' end
  return misplaced(keys, wanted)
end

local function lease_of(text)
  local ends, number = string.match(text or '', '^(%d+) (%d+)$')
  return tonumber(ends), tonumber(number) or 0
end

-- What a replica says of a user: "+" it came, "=" it is there as before, "-" it went. Returns "join" or "leave" where that is
-- the first that is said of the user at this place, or the last.
local function turn(keys, replica, what, place, field, user)
  local known = redis.call('HGET', place, user)
  local spaced, own = ' ' .. (known or '') .. ' ', ' ' .. replica .. ' '
  local from = known and string.find(spaced, own, 1, true)
  if what ~= '-' then
    redis.call('HSET', keys[6], field, 1)
    if from then return nil end
    redis.call('HSET', place, user, known and known .. ' ' .. replica or replica)
    return not known and what == '+' and 'join' or nil
  end
  redis.call('HDEL', keys[6], field)
  if not from then return nil end
  local rest = string.match(string.sub(spaced, 1, from) .. string.sub(spaced, from + #own), '^%s*(.-)%s*$')
  if rest ~= '' then
    redis.call('HSET', place, user, rest)
    return nil
  end
  redis.call('HDEL', place, user)
  return 'leave'
end

-- Carries out turns, `each` of which names what, the number of its topic or 0, and a user; appends the events. Returns how
-- many joined and how many left.
local function turns(keys, replica, names, count, each)
  if count == 0 then return 0, 0 end
  local state = state_of(keys[1], keys[2])
  local topics, joined, left = {}, 0, 0
  local function run()
    for at = 1, count do
      local what, which, user = each(at)
      local name = names[which]
      local place = name and keys[4 + 3 * which] or keys[5]
      local event = turn(keys, replica, what, place, (name or '') .. ' ' .. user, user)
      if event and name then
        local topic = topics[which]
        if topic == nil then
          bear(state, keys[3])
          -- One that somebody broke keeps nobody from being counted.
          topic = topic_of(state, '$presence/' .. name, keys[5 + 3 * which], keys[6 + 3 * which]) or false
          topics[which] = topic
        end
        if topic and not topic.ended and store(state, topic, event, user_json(user)) then
          if event == 'join' then joined = joined + 1 else left = left + 1 end
        end
      end
    end
  end
  local ok, problem = pcall(run)
  local written = {}
  for which, topic in pairs(topics) do
    if topic then written[which] = topic end
  end
  if next(written) then settle(state, keys[3], written) end
  if not ok then error(problem) end
  return joined, left
end

-- The names of topics, of which args[first] says how many; then the place after them.
local function names_of(args, first)
  local names, count = {}, tonumber(args[first])
  for at = 1, count do names[at] = args[first + at] end
  return names, first + count + 1
end

--[[ tidegate_presence: the word of a replica on who came to it and who left. To say a thing again changes nothing.
KEYS  1 meta  2 last  3 heads  4 presences  5 users  6 presence-of:<replica>, then of each topic: presence:<topic>, the stream
      and the channel of $presence/<topic>
ARGV  1 replica  2 milliseconds for which its word counts  3 the table that it knows, or ""  4 number of its words
      5 name of a table where there is none  6 number of topics, then their names; then for each change: "+" it came,
      "=" it is there as before (no event), "-" it went; number of the topic (from 1), or 0 for any stream; the user
Reply [table, number of its words, "kept", "doubtful" (the lease was over, or the number is another) or "lost" (another table),
      how many joined, how many left, then replicas whose lease is over: told to one that lives, the first by name]
Why atomic: of two replicas that say the same of a user one is the first, and the event has to agree with the table. ]]
redis.register_function('tidegate_presence', function(keys, args)
  local replica = args[1]
  local names, first = names_of(args, 6)
  local wrong = misplaced_presence(keys, replica, names)
  if wrong then return fail('KEYS_INVALID', wrong) end
  local now, count = now_ms(), (#args - first + 1) / 3
  local table_name = redis.call('HGET', keys[4], '$')
  local ends, number = lease_of(redis.call('HGET', keys[4], replica))
  local standing = 'kept'
  if not table_name then
    table_name = args[5]
    redis.call('HSET', keys[4], '$', table_name)
  end
  if table_name ~= args[3] then
    standing = 'lost'
  elseif not ends or ends <= now or number ~= tonumber(args[4]) then
    standing = 'doubtful'
  end
  if count > 0 then number = number + 1 end
  redis.call('HSET', keys[4], replica, string.format('%.0f %.0f', now + tonumber(args[2]), number))
  local joined, left = turns(keys, replica, names, count, function(at)
    local from = first + 3 * (at - 1)
    return args[from], tonumber(args[from + 1]), args[from + 2]
  end)
  local reply = { table_name, number, standing, joined, left }
  local all, over, living = redis.call('HGETALL', keys[4]), {}, replica
  for at = 1, #all, 2 do
    local its_end = lease_of(all[at + 1])
    if its_end and its_end > now then
      if all[at] < living then living = all[at] end
    elseif all[at] ~= '$' then
      over[#over + 1] = all[at]
    end
  end
  if living == replica then
    for _, one in ipairs(over) do reply[#reply + 1] = one end
  end
  return reply
end)

--[[ tidegate_presence_sweep: takes what a replica has said and can no longer stand for.
KEYS  as tidegate_presence, of the replica that is swept
ARGV  1 replica  2 number of topics, then their names; then for each user: number of the topic, or 0; the user
Reply [1 if there is more, how many joined (0), how many left]. A replica whose lease is not over stays as it is.
Why atomic: the replica may come back at this moment. ]]
redis.register_function('tidegate_presence_sweep', function(keys, args)
  local names, first = names_of(args, 2)
  local wrong = misplaced_presence(keys, args[1], names)
  if wrong then return fail('KEYS_INVALID', wrong) end
  local ends = lease_of(redis.call('HGET', keys[4], args[1]))
  if ends and ends > now_ms() then return { 0, 0, 0 } end
  local _, left = turns(keys, args[1], names, (#args - first + 1) / 2, function(at)
    local from = first + 2 * (at - 1)
    return '-', tonumber(args[from]), args[from + 1]
  end)
  local more = redis.call('EXISTS', keys[6])
  if more == 0 then redis.call('HDEL', keys[4], args[1]) end
  return { more, 0, left }
end)

--[[ tidegate_present: who follows topics.
KEYS  1 meta  2 last, then the hash of each topic, or that of all users
ARGV  1 how many users of each, at most
Reply [the last id of the log, then for each: number of users, their names]: all of up to 10,000 together, or of up to as many as
      wanted each; of more as many as wanted.
Errors NOT_INITIALISED: there is no log; tidegate_init makes one.
Why atomic: whoever follows the events from that id on has missed none. ]]
redis.register_function({
  function_name = 'tidegate_present',
  callback = function(keys, args)
    local wrong = misplaced(keys, { 'last' })
    if wrong then return fail('KEYS_INVALID', wrong) end
    local state = state_of(keys[1], keys[2])
    if state.missing then return fail('NOT_INITIALISED', 'there is no log yet') end
    local reply = { format(state.last) }
    -- All names of a hash are read at once while everybody waits: of many hashes not as many of each.
    local whole = math.max(tonumber(args[1]), 10000 / math.max(1, #keys - 2))
    for at = 3, #keys do
      local count = redis.call('HLEN', keys[at])
      reply[#reply + 1] = count
      if count <= whole then
        reply[#reply + 1] = redis.call('HKEYS', keys[at])
      else
        reply[#reply + 1] = redis.call('HRANDFIELD', keys[at], args[1])
      end
    end
    return reply
  end,
  flags = { 'no-writes' },
})

-- Whether an entry is an event that a gateway would send: others may write whatever they like.
local function is_event(entry)
  local field = {}
  for at = 1, #entry[2], 2 do
    field[entry[2][at]] = field[entry[2][at]] or entry[2][at + 1]
  end
  local id, previous = parse(entry[1]), parse(field.p)
  return id and previous and below(previous, id) and field.e and field.d and not field.x
    and not wrong_type(field.e) and is_utf8(field.d)
end

--[[ tidegate_newest: the ids of the newest events of a topic, newest first.
KEYS  1 meta  2 stream
ARGV  1 how many, at most
Reply ids. Only they travel, not the data. ]]
redis.register_function({
  function_name = 'tidegate_newest',
  callback = function(keys, args)
    local wanted, reply, from = tonumber(args[1]), {}, '+'
    while #reply < wanted do
      local entries = redis.call('XREVRANGE', keys[2], from, '-', 'COUNT', 64)
      if #entries == 0 then break end
      for _, entry in ipairs(entries) do
        if #reply < wanted and is_event(entry) then reply[#reply + 1] = entry[1] end
      end
      from = '(' .. entries[#entries][1]
    end
    return reply
  end,
  flags = { 'no-writes' },
})
