-- What wrk sends, from a file, and what it reports, as one line of JSON.
--
-- wrk ... -s bench/requests.lua URL -- get FILE     lines: path
-- wrk ... -s bench/requests.lua URL -- put FILE     lines: text before the needle, lease (12 hex digits),
--                                                          count, text after the needle; tabs between
-- wrk ... -s bench/requests.lua URL -- object FILE  as put, for a store that takes the key from the path
-- wrk ... -s bench/requests.lua URL -- raw FILE     whole requests, each after a line with its length in bytes
--
-- One more argument: milliseconds that each connection pauses before each request.
-- A GET cycles through its file. PUTs and raw requests are sent once each: a repeated one would measure something else.
-- When the file ends too early the thread stops, and the report says so ("exhausted"), since wrk's clock goes on.

local threads = {}
exhausted = false

function setup(thread)
  threads[#threads + 1] = thread
end

local kind, file
local texts, at = {}, 0
local lease, slot = nil, 0
local BODY = string.rep("w", 1024)

local function read_lines(name, each)
  for line in io.lines(name) do each(line) end
end

local function read_raw(name)
  local input = assert(io.open(name, "rb"))
  while true do
    local length = input:read("*l")
    if not length then break end
    texts[#texts + 1] = input:read(tonumber(length))
  end
  input:close()
end

function init(args)
  kind, file = args[1], args[2]
  local pause_ms = tonumber(args[3] or "0")
  if pause_ms > 0 then
    delay = function() return pause_ms end
  end
  if kind == "get" then
    read_lines(file, function(line) texts[#texts + 1] = wrk.format("GET", line) end)
  elseif kind == "put" or kind == "object" then
    read_lines(file, function(line)
      local before, number, count, after = line:match("^([^\t]*)\t([^\t]*)\t([^\t]*)\t([^\t]*)$")
      texts[#texts + 1] = { before = before, number = number, count = tonumber(count), after = after }
    end)
  else
    read_raw(file)
  end
end

local function put()
  if not lease or slot == lease.count then
    at, slot = at + 1, 0
    lease = texts[at]
    if not lease then return nil end
  end
  local needle = lease.number .. string.format("%04x", slot)
  slot = slot + 1
  return table.concat({
    "PUT ", lease.before, needle, lease.after, " HTTP/1.1\r\nHost: ", wrk.headers["Host"],
    "\r\nContent-Type: application/octet-stream\r\nContent-Length: 1024",
    kind == "put" and "\r\nWarehouse-Key: bench%2F" .. needle or "", "\r\n\r\n", BODY,
  })
end

function request()
  if kind == "get" then
    at = at % #texts + 1
    return texts[at]
  end
  local text
  if kind == "put" or kind == "object" then
    text = put()
  else
    at = at + 1
    text = texts[at]
  end
  if not text then
    exhausted = true
    wrk.thread:stop()
    return wrk.format("GET", "/")
  end
  return text
end

function done(summary, latency, _)
  local errors, early = summary.errors, 0
  for _, thread in ipairs(threads) do
    if thread:get("exhausted") then early = early + 1 end
  end
  io.write(string.format(
    '\n{"requests":%d,"duration_us":%d,"connect":%d,"read":%d,"write":%d,"status":%d,"timeout":%d,"exhausted":%d,' ..
    '"p50_us":%d,"p99_us":%d}\n',
    summary.requests, summary.duration, errors.connect, errors.read, errors.write, errors.status, errors.timeout, early,
    latency:percentile(50), latency:percentile(99)))
end
