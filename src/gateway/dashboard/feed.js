// Changes as they happen, over a WebSocket, without their values. A connection that breaks is made again, with the cursor
// of the last change, so that nothing is missed.

const FEED_ROWS_MAX = 200;
const FEED_RETRY_MS = [300, 1000, 3000, 5000];

const feed = { socket: null, cursor: '', prefix: '', failures: 0, isPaused: false, waiting: [], skipped: 0, seen: 0, isDrawing: false };

function openFeed() {
  const parameters = new URLSearchParams();
  if (feed.prefix) parameters.set('prefix', feed.prefix);
  if (feed.cursor) parameters.set('since', feed.cursor);
  const scheme = location.protocol === 'https:' ? 'wss' : 'ws';
  // A browser can't send a header with a WebSocket; a token goes as a protocol.
  const protocols = token() ? [`bearer.${token()}`] : [];
  const socket = new WebSocket(`${scheme}://${location.host}/v1/feed?${parameters}`, protocols);
  feed.socket = socket;
  socket.onmessage = (message) => { if (feed.socket === socket) onChange(JSON.parse(message.data)); };
  socket.onclose = (event) => {
    if (feed.socket !== socket) return;
    const wait = FEED_RETRY_MS[Math.min(feed.failures, FEED_RETRY_MS.length - 1)];
    feed.failures += 1;
    say($('feed-note'), `Not connected${event.reason ? `: ${event.reason}` : ''}; trying again.`);
    setTimeout(() => { if (feed.socket === socket) openFeed(); }, wait);
  };
}

function onChange(change) {
  if (change.cursor) feed.cursor = change.cursor;
  if (change.type === 'live') {
    feed.failures = 0;
    say($('feed-note'), '');
    return;
  }
  if (change.type === 'snapshot') return;
  feed.seen += 1;
  // Under load the newest are shown; the page must not fall behind.
  feed.waiting.push({ ...change, at: Date.now() });
  if (feed.waiting.length > FEED_ROWS_MAX) { feed.waiting.shift(); feed.skipped += 1; }
  drawFeed();
}

function drawFeed() {
  if (feed.isDrawing || feed.isPaused) return;
  feed.isDrawing = true;
  requestAnimationFrame(() => {
    feed.isDrawing = false;
    const lines = $('feed');
    const shown = feed.waiting.splice(0).reverse();
    const filter = $('feed-filter').value;
    lines.prepend(...shown.filter((change) => !change.key || change.key.includes(filter)).map(lineOf));
    while (lines.childElementCount > FEED_ROWS_MAX) lines.lastChild.remove();
  });
}

function lineOf(change) {
  const words = change.key ?? 'some changes were missed: they are not kept any more';
  const line = el('li', {}, el('time', {}, clock(change.at)), el('span', { class: `kind ${change.type}` }, change.type), el('span', { class: 'text' }, words));
  line.dataset.key = change.key ?? '';
  return line;
}

function startFeed() {
  let typed = 0;
  $('feed-prefix').addEventListener('input', () => {
    clearTimeout(typed);
    typed = setTimeout(() => {
      feed.prefix = $('feed-prefix').value;
      feed.cursor = '';
      feed.waiting = [];
      $('feed').replaceChildren();
      reopenFeed();
    }, 400);
  });
  $('feed-filter').addEventListener('input', () => {
    const filter = $('feed-filter').value;
    for (const line of $('feed').children) line.hidden = !line.dataset.key.includes(filter);
  });
  $('feed-pause').addEventListener('click', () => {
    feed.isPaused = !feed.isPaused;
    $('feed-pause').setAttribute('aria-pressed', String(feed.isPaused));
    say($('feed-pause'), feed.isPaused ? 'Go on' : 'Pause');
    drawFeed();
  });
  setInterval(() => {
    const perSecond = feed.seen / 2;
    feed.seen = 0;
    say($('feed-rate'), perSecond > 0 ? `${short(perSecond)}/s${feed.skipped > 0 ? ', the newest' : ''}` : '');
    feed.skipped = 0;
  }, 2000);
  openFeed();
}

function reopenFeed() {
  const old = feed.socket;
  feed.failures = 0;
  openFeed();
  old?.close();
}
