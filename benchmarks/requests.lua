-- For wrk: sends the requests of a file (whole HTTP requests, a zero byte between them), one
-- after the other and over again, and tells at the end how it went, as JSON.

local requests, turn = {}, 0

function init(args)
   for request in io.open(args[1], "rb"):read("*a"):gmatch("[^%z]+") do
      requests[#requests + 1] = request
   end
end

function request()
   turn = turn % #requests + 1
   return requests[turn]
end

function done(summary, latency)
   local errors = summary.errors
   io.write(string.format(
      '\n{"acknowledged": %d, "seconds": %f, "p50_ms": %f, "p99_ms": %f, "errors": ' ..
      '{"connect": %d, "read": %d, "write": %d, "status": %d, "timeout": %d}}\n',
      summary.requests, summary.duration / 1e6,
      latency:percentile(50) / 1e3, latency:percentile(99) / 1e3,
      errors.connect, errors.read, errors.write, errors.status, errors.timeout))
end
