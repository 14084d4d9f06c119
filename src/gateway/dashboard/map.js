// The partition map: a cell for each partition, in the colour of the node that leads it.
//
// Ordered by home, a cell stays where its partition was led when the cluster was last whole: so a node that dies is a block
// that takes the colours of those who step in, and one that returns gets its block back, cell by cell.

const map = {
  table: null, // /v1/cluster/map
  asked: '', // generation and index of what was asked for last
  order: [], // partitions, by cell
  isHomed: false,
  shown: null, // the slot of the only node that is shown, or null
  at: null, // the cell that is pointed at
};

function stateOf(partition) {
  return map.table.states[map.table.partitions[partition]];
}

// Asks for the table when it has changed.
async function pollMap(status) {
  const version = `${cluster.from} ${status.generation} ${status.table_index}`;
  if (version === map.asked || !status.cluster_id) return;
  map.asked = version;
  try {
    const answer = await ask('/v1/cluster/map', { origin: cluster.from, timeout: OTHER_TIMEOUT_MS });
    if (answer.status !== 200) throw new Error('no map');
    map.table = json(answer);
  } catch {
    map.asked = '';
    return;
  }
  const { partitions } = status;
  const isWhole = partitions.full === partitions.total && partitions.misplaced === 0;
  if (map.order.length !== map.table.partitions.length || isWhole || !map.isHomed) orderMap(isWhole);
  drawMap();
  showLegend(status);
}

function orderMap(isWhole = map.isHomed) {
  map.isHomed = isWhole;
  map.order = map.table.partitions.map((_, partition) => partition);
  if ($('map-order').value === 'number') return;
  const rank = map.table.states.map(({ primary, in_sync }) => (primary ?? 99) * 1e6 + in_sync.reduce((sum, slot) => sum * 64 + slot, 0) % 1e6);
  map.order.sort((one, other) => rank[map.table.partitions[one]] - rank[map.table.partitions[other]] || one - other);
}

function columnsOfMap() {
  return Math.max(1, Math.ceil(Math.sqrt(map.order.length)));
}

function drawMap() {
  const canvas = $('map');
  if (!map.table || map.order.length === 0) return;
  const columns = columnsOfMap();
  const scale = window.devicePixelRatio || 1;
  // A whole number of device pixels for each cell, so that all are alike.
  const side = Math.max(1, Math.floor((canvas.clientWidth * scale) / columns));
  const gap = side >= 5 ? Math.max(1, Math.round(scale * 0.6)) : 0;
  canvas.width = canvas.height = side * columns;
  const pen = canvas.getContext('2d');
  const colours = { bad: themed('bad'), back: themed('panel'), ink: themed('ink'), dim: themed('dim') };
  const replicas = cluster.status?.replicas ?? 1;
  map.order.forEach((partition, cell) => {
    const x = (cell % columns) * side;
    const y = Math.floor(cell / columns) * side;
    drawCell(pen, x, y, side - gap, stateOf(partition), replicas, colours);
  });
  if (map.at !== null) {
    pen.strokeStyle = colours.ink;
    pen.lineWidth = Math.max(2, scale);
    pen.strokeRect((map.at % columns) * side - gap, Math.floor(map.at / columns) * side - gap, side + gap, side + gap);
  }
}

function drawCell(pen, x, y, size, state, replicas, colours) {
  const isShown = map.shown === null || state.in_sync.includes(map.shown) || state.learners.includes(map.shown);
  pen.globalAlpha = isShown ? 1 : 0.12;
  if (state.lost) {
    pen.fillStyle = colours.bad;
    pen.fillRect(x, y, size, size);
    pen.strokeStyle = colours.back;
    pen.lineWidth = Math.max(1, size / 6);
    pen.beginPath();
    pen.moveTo(x, y); pen.lineTo(x + size, y + size);
    pen.moveTo(x + size, y); pen.lineTo(x, y + size);
    pen.stroke();
  } else if (state.primary === null) {
    // Nobody leads it: an empty frame.
    pen.strokeStyle = colours.bad;
    pen.lineWidth = Math.max(1, size / 5);
    const half = pen.lineWidth / 2;
    pen.strokeRect(x + half, y + half, size - pen.lineWidth, size - pen.lineWidth);
  } else {
    const isBackup = map.shown !== null && state.primary !== map.shown && isShown;
    if (isBackup) pen.globalAlpha = 0.45;
    pen.fillStyle = colourOf(state.primary);
    pen.fillRect(x, y, size, size);
    if (state.in_sync.length < replicas) {
      // A corner is missing where a copy is.
      pen.globalAlpha = 1;
      pen.fillStyle = colours.back;
      corner(pen, x, y, size, 0.8);
    }
  }
  if (state.learners.length > 0 && isShown) {
    pen.globalAlpha = 1;
    pen.fillStyle = colourOf(state.learners[0]);
    corner(pen, x, y, size, 0.55);
  }
  pen.globalAlpha = 1;
}

function corner(pen, x, y, size, share) {
  const leg = size * share;
  pen.beginPath();
  pen.moveTo(x + size, y + size); pen.lineTo(x + size - leg, y + size); pen.lineTo(x + size, y + size - leg);
  pen.fill();
}

function showLegend(status) {
  const legend = $('map-legend');
  const { nodes } = map.table;
  if (legend.childElementCount !== nodes.length) {
    legend.replaceChildren(...nodes.map((name, slot) => {
      const button = el('button', { type: 'button', 'aria-pressed': 'false' }, el('i', { class: 'swatch' }), name);
      button.addEventListener('click', () => {
        map.shown = map.shown === slot ? null : slot;
        showLegend(cluster.status);
        drawMap();
      });
      return button;
    }));
  }
  [...legend.children].forEach((button, slot) => {
    button.setAttribute('aria-pressed', String(map.shown === slot));
    button.firstChild.style.background = colourOf(slot);
  });
  const { full, reduced, unavailable, lost } = status.partitions;
  const filling = map.table.partitions.filter((state) => map.table.states[state].learners.length > 0).length;
  const parts = [['', full, 'whole'], ['warn', reduced, 'short of copies'], ['', filling, 'being filled'],
    ['bad', unavailable, 'without a primary'], ['bad', lost, 'lost']];
  const shown = parts.filter(([, number], nth) => number > 0 || nth === 0);
  const summary = shown.map(([kind, number, words]) => el('span', { class: number > 0 ? kind : '' }, el('b', {}, count(number)), ` ${words}`));
  if ($('map-summary').textContent !== summary.map((part) => part.textContent).join('')) $('map-summary').replaceChildren(...summary);
  $('map').setAttribute('aria-label', `${count(map.table.partitions.length)} partitions`);
  if (map.at !== null) showCell();
}

// Words for the cell that is pointed at.
function showCell() {
  const partition = map.at === null ? undefined : map.order[map.at];
  if (partition === undefined) return say($('map-info'), 'Point at a cell, or use the arrow keys.');
  const state = stateOf(partition);
  const name = (slot) => map.table.nodes[slot] ?? `node ${slot}`;
  const parts = [`Partition ${partition}: ${state.primary === null ? 'no primary' : `led by ${name(state.primary)}`}`];
  if (state.lost) parts.push('no copy is left');
  const backups = state.in_sync.filter((slot) => slot !== state.primary);
  if (backups.length > 0) parts.push(`in sync ${list(backups.map(name))}`);
  if (state.learners.length > 0) parts.push(`filling ${list(state.learners.map(name))}`);
  say($('map-info'), parts.join('; '));
}

function pointAt(cell) {
  map.at = cell === null ? null : Math.min(Math.max(cell, 0), map.order.length - 1);
  showCell();
  drawMap();
}

function startMap() {
  const canvas = $('map');
  canvas.addEventListener('mousemove', (event) => {
    if (map.order.length === 0) return;
    const columns = columnsOfMap();
    const box = canvas.getBoundingClientRect();
    const place = (offset, length) => Math.min(Math.floor((offset / length) * columns), columns - 1);
    const cell = place(event.clientY - box.top, box.height) * columns + place(event.clientX - box.left, box.width);
    if (cell !== map.at) pointAt(cell < map.order.length ? cell : null);
  });
  canvas.addEventListener('mouseleave', () => pointAt(null));
  canvas.addEventListener('keydown', (event) => {
    const columns = columnsOfMap();
    const steps = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -columns, ArrowDown: columns, Home: -1e9, End: 1e9 };
    if (!(event.key in steps) || map.order.length === 0) return;
    event.preventDefault();
    pointAt((map.at ?? 0) + (map.at === null ? 0 : steps[event.key]));
  });
  canvas.addEventListener('blur', () => pointAt(null));
  $('map-order').addEventListener('change', () => { if (map.table) { orderMap(); drawMap(); } });
  new ResizeObserver(drawMap).observe(canvas);
  onStatus.push(pollMap);
}
