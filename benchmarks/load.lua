-- What wrk asks for: a picture of another seed and prompt each time, and how the answers fell out.
local things = { "a red apple", "a dog", "a yellow car", "two cats", "a tree", "a house", "a blue fish", "a pizza" }
local grounds = { "a white background", "a blue background", "a green background", "a yellow background" }

-- wrk has a state of Lua for each of its threads; one thread is enough, and its counts are then all there are.
answers = ""
local counts, number = {}, 0

request = function()
  number = number + 1
  local thing, ground = things[number % #things + 1], grounds[number % #grounds + 1]
  local body = string.format(
    '{"prompt": "%s on %s", "seed": %d, "response_format": "url"}', thing, ground, number)
  return wrk.format("POST", "/v1/images/generations", { ["Content-Type"] = "application/json" }, body)
end

response = function(status)
  counts[status] = (counts[status] or 0) + 1
  local parts = {}
  for code, many in pairs(counts) do parts[#parts + 1] = string.format('"%d": %d', code, many) end
  answers = table.concat(parts, ", ")
end

local threads = {}
setup = function(thread) threads[#threads + 1] = thread end

done = function(summary, latency)
  local errors = summary.errors
  io.write(string.format(
    'RESULT {"seconds": %.3f, "requests": %d, "p50": %.3f, "p95": %.3f, "p99": %.3f, "longest": %.3f, ' ..
    '"broken": %d, "timeouts": %d, "answers": {%s}}\n',
    summary.duration / 1e6, summary.requests, latency:percentile(50) / 1e6, latency:percentile(95) / 1e6,
    latency:percentile(99) / 1e6, latency.max / 1e6, errors.connect + errors.read + errors.write, errors.timeout,
    threads[1]:get("answers")))
end
