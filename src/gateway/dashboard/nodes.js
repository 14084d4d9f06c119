// The table of nodes. Its rows stay and are written anew, so that the focus and the reader's place stay, too.

const rows = new Map(); // by name: the row and its cells

function showNodes(status) {
  const body = $('nodes');
  const names = status.nodes.map((node) => node.name);
  for (const [name, row] of rows) {
    if (!names.includes(name)) { row.line.remove(); rows.delete(name); }
  }
  status.nodes.forEach((node, slot) => {
    let row = rows.get(node.name);
    if (!row) {
      row = makeRow(node);
      rows.set(node.name, row);
      body.append(row.line);
    }
    fillRow(row, node, slot, status);
  });
}

function makeRow(node) {
  const cells = {};
  const cell = (name, classes = '', ...content) => {
    cells[name] = el('td', { class: classes }, ...content);
    return cells[name];
  };
  const row = { cells, swatch: el('i', { class: 'swatch' }), link: el('a', {}, node.name), me: el('span', { class: 'me' }) };
  row.dot = el('span', { class: 'dot' });
  row.role = el('span', {});
  row.fill = el('i', {});
  row.bar = el('span', { class: 'bar', 'aria-hidden': 'true' }, row.fill);
  row.memory = el('span', {});
  row.line = el('tr', {},
    cell('name', '', row.swatch, row.link, row.me), cell('role', '', el('span', { class: 'role' }, row.dot, row.role)),
    cell('leads', 'number'), cell('sync', 'number wide'), cell('filling', 'number wide'), cell('keys', 'number wide'),
    cell('memory', '', row.bar, row.memory), cell('rate', 'number'), cell('slow', 'number wide'), cell('trip', 'number wide'),
    cell('heard', 'number'));
  return row;
}

function fillRow(row, node, slot, status) {
  const { cells } = row;
  const isMe = node.name === status.node;
  row.swatch.style.background = colourOf(slot);
  row.link.href = node.url;
  row.link.title = `The dashboard of ${node.name} at ${node.url}`;
  say(row.me, node.name === cluster.own ? 'here' : '');
  row.line.className = isDead(node) ? 'dead' : '';
  cells.role.firstChild.className = `role ${roleOf(node)}`;
  const [health, words] = healthOf(node, status);
  row.dot.className = `dot ${health}`;
  const role = node.voter || isDead(node) ? roleOf(node) : `${roleOf(node)}, no vote`;
  say(row.role, node.draining ? `${role}, drained` : role);
  cells.role.title = words;
  say(cells.leads, count(node.primaries));
  say(cells.sync, count(node.in_sync));
  say(cells.filling, node.learning > 0 ? count(node.learning) : '–');
  say(cells.keys, isDead(node) ? '–' : short(node.keys));
  fillMemory(row, node);
  const now = load.now.get(node.name);
  say(cells.rate, now ? short(now.reads + now.writes) : '–');
  say(cells.slow, now?.p99 ? `${micros(now.p90)}, ${micros(now.p99)}` : '–');
  say(cells.trip, isMe || isDead(node) ? '–' : micros(node.round_trip_us));
  say(cells.heard, isMe ? 'itself' : node.last_heard_ms == null ? 'never' : age(node.last_heard_ms));
}

function fillMemory(row, node) {
  const limit = node.memory_limit_bytes ?? memoryLimits.get(node.name);
  if (node.memory_limit_bytes) memoryLimits.set(node.name, node.memory_limit_bytes);
  const share = isDead(node) || !limit ? 0 : Math.min(1, node.memory_bytes / limit);
  row.bar.className = `bar ${share >= 0.95 ? 'bad' : share >= 0.8 ? 'warn' : ''}`;
  row.fill.style.width = `${(share * 100).toFixed(1)}%`;
  say(row.memory, isDead(node) ? '–' : bytes(node.memory_bytes));
  row.cells.memory.title = limit ? `of ${bytes(limit)}` : '';
}
const memoryLimits = new Map(); // by node, as each says of itself

function healthOf(node, status) {
  if (isDead(node)) return ['bad', 'It is silent: its process is gone, or nobody reaches it'];
  if (node.role === 'starting') return ['warn', 'It knows no cluster yet'];
  if (node.workers_stalled_ms) return ['bad', `Its workers have hung for ${age(node.workers_stalled_ms)}`];
  if ((node.last_heard_ms ?? 0) > SILENT_MS) return ['warn', 'It was not heard for a moment'];
  const lossy = node.peers.filter((peer) => (peer.loss ?? 0) > 0.05);
  if (lossy.length > 0) return ['warn', `It loses datagrams of ${list(lossy.map((peer) => peer.name))}`];
  if (node.learning > 0) return ['warn', `It is being filled with ${count(node.learning)} partitions`];
  if (node.role === 'candidate') return ['warn', 'It asks for votes'];
  if (status.verification?.differences > 0 && node.verification?.differences > 0) return ['warn', 'Bad records were found in its copies'];
  return ['good', 'It is well'];
}

function startNodes() {
  onStatus.push(showNodes);
  onLoad.push(() => {
    // Others' limits are told to whoever asks them themselves.
    if (cluster.status) showNodes(cluster.status);
  });
}
