// Load over time. Each node counts what clients ask of it and tells it when it is asked itself, so this page asks each one,
// every two seconds; the difference of two answers is what was asked between them.

const SAMPLE_MS = 2000;
const SAMPLES_MAX = 150; // five minutes
const SAMPLES_SHOWN_MIN = 30; // a chart is a minute long at least

const load = {
  last: new Map(), // by node: when it was asked last, and what it had counted
  now: new Map(), // by node: { reads, writes, p90, p99 } of the last interval
  samples: [], // of all nodes
  unread: [], // nodes that could not be asked
};

async function pollLoad() {
  const { status } = cluster;
  if (status && !document.hidden) {
    const found = await Promise.all(status.nodes.map((node) => (isDead(node) ? null : trafficOf(node))));
    load.unread = status.nodes.filter((node, nth) => !isDead(node) && !found[nth]).map((node) => node.name);
    addSample(status, found);
    drawCharts();
    for (const hear of onLoad) hear();
  }
  setTimeout(pollLoad, SAMPLE_MS);
}
const onLoad = []; // who wants to hear of each sample

async function trafficOf(node) {
  const isOwn = node.name === cluster.own;
  if (isOwn && cluster.failedSince !== null) return null;
  try {
    const answer = await ask('/v1/cluster', { origin: isOwn ? '' : new URL(node.url).origin, timeout: OTHER_TIMEOUT_MS });
    if (answer.status !== 200) return null;
    const told = json(answer);
    return told.nodes.find((other) => other.name === told.node && other.name === node.name) ?? null;
  } catch {
    return null;
  }
}

function addSample(status, found) {
  const at = performance.now();
  const sample = { at: Date.now(), reads: [], writes: [], memory: [], readsSlow: null, writesSlow: null };
  const all = { bounds: [], reads: [], writes: [], seconds: 0 };
  load.now.clear();
  status.nodes.forEach((node, slot) => {
    sample.memory[slot] = isDead(node) ? null : node.memory_bytes;
    sample.reads[slot] = sample.writes[slot] = null;
    const traffic = found[slot]?.traffic;
    if (!traffic) return load.last.delete(node.name);
    const before = load.last.get(node.name);
    load.last.set(node.name, { at, traffic, incarnation: found[slot].incarnation });
    // A new process counts from nothing.
    if (!before || before.incarnation !== found[slot].incarnation) return;
    const seconds = (at - before.at) / 1000;
    const differ = (kind) => traffic[kind].map((number, bucket) => Math.max(0, number - (before.traffic[kind][bucket] ?? 0)));
    const [reads, writes] = [differ('reads'), differ('writes')];
    sample.reads[slot] = sum(reads) / seconds;
    sample.writes[slot] = sum(writes) / seconds;
    all.bounds = traffic.bounds_us;
    all.reads = plus(all.reads, reads);
    all.writes = plus(all.writes, writes);
    const both = plus(reads, writes);
    load.now.set(node.name, {
      reads: sample.reads[slot], writes: sample.writes[slot],
      p90: quantile(all.bounds, both, 0.9), p99: quantile(all.bounds, both, 0.99),
    });
  });
  sample.readsSlow = quantile(all.bounds, all.reads, 0.99);
  sample.writesSlow = quantile(all.bounds, all.writes, 0.99);
  load.samples.push(sample);
  if (load.samples.length > SAMPLES_MAX) load.samples.shift();
}

function sum(numbers) {
  return numbers.reduce((one, other) => one + (other ?? 0), 0);
}

function plus(one, other) {
  return other.map((number, nth) => number + (one[nth] ?? 0));
}

// The time in microseconds below which a share of the requests were answered: within a bucket, as if they were spread
// evenly. Nothing where there were none.
function quantile(bounds, counts, share) {
  const total = sum(counts);
  if (total === 0) return null;
  let left = total * share;
  for (let bucket = 0; bucket < counts.length; bucket += 1) {
    if (counts[bucket] >= left && counts[bucket] > 0) {
      const low = bucket === 0 ? 0 : bounds[bucket - 1];
      const high = bounds[bucket] ?? low;
      return low + (high - low) * (left / counts[bucket]);
    }
    left -= counts[bucket];
  }
  return bounds[bounds.length - 1];
}

// ---------------------------------------------------------------------------------------------------------------- drawing

function drawCharts() {
  const { samples } = load;
  const { status } = cluster;
  if (samples.length === 0 || !status) return;
  const last = samples[samples.length - 1];
  const perNode = (kind) => status.nodes.map((_, slot) => ({ colour: colourOf(slot), points: samples.map((sample) => sample[kind][slot]) }));
  const rate = (number) => `${short(number)}/s`;
  const [reads, writes] = [sum(last.reads), sum(last.writes)];
  const isCounted = last.reads.some((number) => number !== null);
  drawChart('reads', perNode('reads'), isCounted ? rate(reads) : '–', short, 10);
  drawChart('writes', perNode('writes'), isCounted ? rate(writes) : '–', short, 10);
  const slow = [
    { colour: themed('accent'), name: 'reads', points: samples.map((sample) => sample.readsSlow) },
    { colour: themed('warn'), name: 'writes', points: samples.map((sample) => sample.writesSlow) },
  ];
  const both = [last.readsSlow, last.writesSlow];
  drawChart('latency', slow, both.every((time) => time === null) ? '–' : both.map(micros).join(' · '), micros, 1000);
  drawChart('memory', perNode('memory'), bytes(sum(last.memory)), bytes, 1 << 20);
  const isForeign = load.unread.length > 0 && cluster.failedSince === null;
  const own = cluster.urls.get(cluster.own);
  const isElsewhere = own && new URL(own).origin !== location.origin;
  const span = samples.length <= SAMPLES_SHOWN_MIN ? 'minute' : age(samples.length * SAMPLE_MS);
  const advice = isElsewhere ? `; open ${own} to see all` : '';
  say($('load-note'), isForeign ? `without ${list(load.unread)}, not reachable from here${advice}` : `the last ${span}; p99 of reads · writes`);
}

function drawChart(name, lines, now, unit, least) {
  say($(`${name}-now`), now);
  const canvas = $(`${name}-chart`);
  canvas.setAttribute('aria-label', `${name}: ${now} now`);
  const scale = window.devicePixelRatio || 1;
  const [width, height] = [canvas.clientWidth, canvas.clientHeight];
  canvas.width = Math.round(width * scale);
  canvas.height = Math.round(height * scale);
  const pen = canvas.getContext('2d');
  pen.scale(scale, scale);
  const highest = roundUp(Math.max(least, ...lines.flatMap((line) => line.points.map((point) => point ?? 0))), unit === bytes);
  const top = 14;
  pen.strokeStyle = themed('line');
  pen.lineWidth = 1;
  for (const y of [top + 0.5, Math.round((top + height) / 2) + 0.5, height - 0.5]) {
    pen.beginPath(); pen.moveTo(0, y); pen.lineTo(width, y); pen.stroke();
  }
  pen.fillStyle = themed('dim');
  pen.font = `10.5px ${getComputedStyle(document.body).fontFamily}`;
  pen.fillText(unit(highest), 0, 10);
  for (const line of lines) {
    pen.strokeStyle = line.colour;
    pen.lineWidth = 1.5;
    pen.lineJoin = 'round';
    pen.beginPath();
    let isDown = false;
    line.points.forEach((point, nth) => {
      const x = width - ((line.points.length - 1 - nth) / (Math.max(SAMPLES_SHOWN_MIN, line.points.length) - 1)) * width;
      const y = height - 1 - (Math.min(point ?? 0, highest) / highest) * (height - top - 1);
      if (point === null || point === undefined) isDown = false;
      else if (isDown) pen.lineTo(x, y);
      else { pen.moveTo(x, y); isDown = true; }
    });
    pen.stroke();
  }
}

// The next of 1, 2, 5, 10, …, or the next power of two.
function roundUp(number, isBinary) {
  if (isBinary) return 2 ** Math.ceil(Math.log2(number));
  const magnitude = 10 ** Math.floor(Math.log10(number));
  return [1, 2, 5, 10].find((step) => step * magnitude >= number) * magnitude;
}

function startCharts() {
  new ResizeObserver(drawCharts).observe($('reads-chart'));
  pollLoad();
}
