-- Requests for wrk: one PUT or GET of a 128-byte value per call, under keys that are drawn at random.
--
--   wrk -t1 -c32 -d5s -s benches/http_load.lua http://127.0.0.1:7401 -- get 100000
--
-- The arguments: what to do, how many keys there are, and a file with numbers of keys, one a line, where only those are meant.

local value = string.rep("v", 128)
local operation, keys
local chosen = {}

function init(args)
   operation, keys = args[1], tonumber(args[2])
   if args[3] then
      for number in io.lines(args[3]) do
         chosen[#chosen + 1] = tonumber(number)
      end
   end
   wrk.headers["Content-Type"] = "application/octet-stream"
end

function request()
   local number = #chosen > 0 and chosen[math.random(#chosen)] or math.random(0, keys - 1)
   local path = string.format("/v1/kv/key-%07d", number)
   if operation == "get" then
      return wrk.format("GET", path)
   end
   return wrk.format("PUT", path, nil, value)
end

function done(summary, latency, requests)
   local errors = summary.errors
   local failed = errors.connect + errors.read + errors.write + errors.status + errors.timeout
   io.write(string.format("result requests=%d seconds=%.3f p50_us=%d p99_us=%d failed=%d\n",
      summary.requests, summary.duration / 1e6, latency:percentile(50), latency:percentile(99), failed))
end
