// How the cluster is, asked once a second; what has changed since then, as lines for people; and where to go when the node
// that this page came from is gone.

const POLL_MS = 1000;
const POLL_HASTY_MS = 250; // while a failover may be under way
const POLL_HIDDEN_MS = 10000;
const OWN_TIMEOUT_MS = 1500;
const OTHER_TIMEOUT_MS = 1500;
const SILENT_MS = 400; // heartbeats come every 20 ms
const DEAD_MS = 2500;
const MOVE_AFTER_MS = 5000;
const EVENTS_MAX = 200;
const EVENTS_CARRIED = 30;

const cluster = {
  status: null, // the last one, whoever gave it
  from: null, // the origin that gave it; '' for this page's own
  urls: new Map(), // every node's URL, by name
  own: null, // the name of the node that this page came from
  failedSince: null, // when that one stopped answering
  stays: false, // somebody wants to stay here although it is gone
  hastyUntil: 0,
  events: [],
};
const onStatus = []; // who wants to hear of each status

// ---------------------------------------------------------------------------------------------------------------- polling

async function pollCluster() {
  const status = await ownStatus() ?? await othersStatus();
  if (status) {
    const before = cluster.status;
    cluster.status = status;
    for (const node of status.nodes) cluster.urls.set(node.name, node.url);
    compare(before, status);
    for (const hear of onStatus) hear(status);
  }
  showVerdict();
  showBanner();
  const isHasty = Date.now() < cluster.hastyUntil || cluster.failedSince !== null;
  setTimeout(pollCluster, document.hidden ? POLL_HIDDEN_MS : isHasty ? POLL_HASTY_MS : POLL_MS);
}

async function ownStatus() {
  try {
    const answer = await ask('/v1/cluster', { timeout: OWN_TIMEOUT_MS });
    if (answer.status !== 200) return null;
    if (cluster.failedSince !== null) tell('good', `${cluster.own} answers again`);
    cluster.failedSince = null;
    cluster.stays = false;
    cluster.from = '';
    const status = json(answer);
    cluster.own = status.node;
    return status;
  } catch {
    if (cluster.failedSince === null && cluster.own) {
      cluster.failedSince = Date.now();
      tell('bad', `${cluster.own}, where this page comes from, does not answer`);
    }
    return null;
  }
}

// What another node says: the first that answers, and of those that know a leader rather than of others.
async function othersStatus() {
  const asked = [...cluster.urls].filter(([name]) => name !== cluster.own).map(async ([, url]) => {
    const answer = await ask('/v1/cluster', { origin: new URL(url).origin, timeout: OTHER_TIMEOUT_MS });
    if (answer.status !== 200) throw new Error('it has no status');
    return { status: json(answer), from: new URL(url).origin };
  });
  const knowing = asked.map(async (one) => {
    const found = await one;
    if (!found.status.leader) throw new Error('it knows no leader');
    return found;
  });
  const first = await Promise.any(knowing).catch(() => Promise.any(asked)).catch(() => null);
  if (!first) return null;
  cluster.from = first.from;
  return first.status;
}

// ----------------------------------------------------------------------------------------------------------------- events

// Adds a line. `kind` is good, warn, bad or nothing.
function tell(kind, text, at = Date.now()) {
  cluster.events.push({ at, kind, text });
  if (cluster.events.length > EVENTS_MAX) cluster.events.shift();
  const lines = $('events');
  lines.prepend(el('li', {}, el('time', {}, clock(at)), el('span', { class: `dot ${kind}` }), el('span', { class: 'text' }, text)));
  while (lines.childElementCount > EVENTS_MAX) lines.lastChild.remove();
}

// A node that is silent for a second is called dead, but what one follower hears of another is gossip, which may come late.
// So the page believes it once the cluster has taken the node's copies off the list, or the silence goes on.
function isDead(node) {
  return node.role === 'dead' && (node.in_sync === 0 || (node.last_heard_ms ?? Infinity) > DEAD_MS);
}

function roleOf(node) {
  return node.role === 'dead' && !isDead(node) ? 'silent' : node.role;
}

// Says what is other than before.
function compare(before, now) {
  if (!before) {
    const leader = now.leader ? `${now.leader} leads in term ${now.term}` : 'no leader is known';
    tell('', `Watching ${now.name}: ${leader}`);
    if (now.nodes.some(isDead)) tell('bad', `${list(now.nodes.filter(isDead).map((node) => node.name))} dead`);
    return;
  }
  compareLeaders(before, now);
  const known = new Map(before.nodes.map((node) => [node.name, node]));
  for (const node of now.nodes) compareNode(known.get(node.name), node);
  comparePartitions(before, now);
  if (before.generation !== now.generation) tell('warn', `The cluster was recovered by force: generation ${now.generation}`);
  const [damage, more] = [before, now].map((status) => status.verification?.differences ?? 0);
  if (more > damage) tell('bad', `${more - damage} records were found to be bad, ${now.verification.repairs} repaired so far`);
}

// When the old leader was last seen to be well, for how long nobody led.
let ledAt = null;

function compareLeaders(before, now) {
  if (now.leader && before.leader && now.leader !== before.leader) {
    tell('warn', `Leader ${before.leader} → ${now.leader}, term ${now.term}`);
    cluster.hastyUntil = Date.now() + 5000;
  } else if (!now.leader && before.leader) {
    tell('bad', `No leader: ${before.leader} led until now`);
    ledAt = { name: before.leader, at: Date.now() };
    cluster.hastyUntil = Date.now() + 10000;
  } else if (now.leader && !before.leader) {
    const gap = ledAt ? ` after ${age(Date.now() - ledAt.at)} without one` : '';
    const change = ledAt && ledAt.name !== now.leader ? `Leader ${ledAt.name} → ${now.leader}` : `${now.leader} leads`;
    tell('good', `${change}, term ${now.term}${gap}`);
    ledAt = null;
  } else if (now.term !== before.term && now.leader) {
    tell('', `${now.leader} leads anew, term ${now.term}`);
  }
  if (before.quorum && !now.quorum) tell('bad', 'No quorum: writes are refused');
  if (!before.quorum && now.quorum) tell('good', 'Quorum: writes are taken again');
}

function compareNode(before, node) {
  if (!before) return tell('', `${node.name} was added to the configuration`);
  if (isDead(node) && !isDead(before)) tell('bad', `${node.name} is dead`);
  if (!isDead(node) && isDead(before)) tell('good', `${node.name} is back`);
  if (node.incarnation && before.incarnation && node.incarnation !== before.incarnation) {
    tell('', `${node.name} is a new process, filled from empty`);
  }
  if (node.draining !== before.draining) tell('', node.draining ? `${node.name} is drained` : `${node.name} takes copies again`);
  if (node.voter !== before.voter) tell('', `${node.name} ${node.voter ? 'has a vote again' : 'lost its vote'}`);
  if ((node.last_heard_ms ?? 0) > SILENT_MS && !isDead(node)) cluster.hastyUntil = Date.now() + 3000;
}

// Numbers of partitions jump about for seconds while a cluster heals: a line for each state that begins, and for the end.
function comparePartitions({ partitions: before }, { partitions: now }) {
  if (now.lost > before.lost) tell('bad', `${count(now.lost - before.lost)} partitions are LOST: no copy is left`);
  if (now.unavailable > 0 && before.unavailable === 0) tell('bad', `${count(now.unavailable)} partitions have no primary`);
  if (now.unavailable === 0 && before.unavailable > 0) tell('good', 'Every partition has a primary again');
  if (now.reduced > 0 && before.reduced === 0) tell('warn', `${count(now.reduced)} partitions have fewer copies than they should`);
  if (now.full === now.total && before.full < before.total && now.total > 0) tell('good', 'Every partition has all its copies');
}

// ---------------------------------------------------------------------------------------------------------------- verdict

// What matters most, in a few words.
function verdict() {
  const { status, failedSince } = cluster;
  if (!status) return isTokenAsked ? ['warn', 'A token is needed'] : ['', 'Connecting …'];
  if (failedSince !== null && cluster.from === '') return ['bad', 'No node answers'];
  if (!status.cluster_id) return ['warn', 'Not founded yet: not all nodes are up'];
  if (!status.quorum || !status.leader) return ['bad', status.leader ? 'No quorum' : 'No leader'];
  const { lost, unavailable, reduced } = status.partitions;
  if (lost > 0) return ['bad', `${count(lost)} partitions lost`];
  if (unavailable > 0) return ['bad', `${count(unavailable)} partitions without a primary`];
  const dead = status.nodes.filter(isDead).map((node) => node.name);
  if (reduced > 0) {
    const healing = status.healing;
    const left = healing?.seconds_left != null ? `, ${age(healing.seconds_left * 1000)} left` : '';
    return ['warn', healing ? `Healing: ${count(reduced)} partitions${left}` : `${count(reduced)} partitions short of copies`];
  }
  return dead.length > 0 ? ['warn', `${list(dead)} down, no copy missing`] : ['good', 'Healthy'];
}

function showVerdict() {
  const [kind, text] = verdict();
  $('verdict').className = `verdict ${kind}`;
  say($('verdict-text'), text);
  const { status } = cluster;
  if (!status) return;
  say($('cluster-name'), status.name);
  document.title = `${kind === 'good' || kind === '' ? '' : '● '}${status.name} · jumpgate`;
  const alive = status.nodes.filter((node) => !isDead(node)).length;
  const facts = [
    ['Leader', status.leader ?? 'none'],
    ['Term', count(status.term)],
    ['Nodes', `${alive} of ${status.nodes.length}`],
    ['Copies', `${status.replicas}, at least ${status.min_copies}`],
  ];
  const shown = facts.map(([name, value]) => el('div', {}, el('dt', {}, name), el('dd', {}, value)));
  if ($('facts').textContent !== facts.flat().join('')) $('facts').replaceChildren(...shown);
  say($('source'), cluster.failedSince === null ? `as ${status.node} sees it` : `as ${status.node} saw it last; ${cluster.own} is gone`);
}

// ---------------------------------------------------------------------------------------------------- the node that is gone

function showBanner() {
  const { status, failedSince, from } = cluster;
  const refuge = failedSince !== null && from !== '' ? refugeOf(status) : null;
  $('banner').hidden = refuge === null || cluster.stays;
  if (!refuge || cluster.stays) return;
  $('banner-go').href = urlOf(refuge);
  say($('banner-go'), `Go to ${refuge.name}`);
  const isEditing = isEdited();
  const left = Math.ceil((failedSince + MOVE_AFTER_MS - Date.now()) / 1000);
  const plan = isEditing ? 'What you have not saved stays here.' : `This page goes to ${refuge.name} in ${Math.max(left, 0)} s.`;
  say($('banner-text'), `${cluster.own} does not answer. What you see is what ${status.node} says. ${plan}`);
  if (left <= 0 && !isEditing && !document.hidden) location.assign(urlOf(refuge));
}

// Where to go: to the leader, or to who has answered.
function refugeOf(status) {
  const alive = status.nodes.filter((node) => !isDead(node) && node.name !== cluster.own);
  return alive.find((node) => node.name === status.leader) ?? alive.find((node) => node.name === status.node) ?? null;
}

// The other node's page, with what happened so far. No token goes along: addresses are remembered.
function urlOf(node) {
  const story = { from: cluster.own, events: cluster.events.slice(-EVENTS_CARRIED) };
  return `${new URL(node.url).origin}/#${encodeURIComponent(JSON.stringify(story))}`;
}

// What the page before this one has seen. An address may be anybody's work: only its texts are shown, as texts.
function takeStory() {
  try {
    const story = JSON.parse(decodeURIComponent(location.hash.slice(1)));
    for (const { at, kind, text } of story.events.slice(-EVENTS_CARRIED)) {
      if (Number.isFinite(at) && /^(good|warn|bad|)$/.test(kind) && typeof text === 'string') tell(kind, text.slice(0, 300), at);
    }
    tell('', `This page came here from ${String(story.from).slice(0, 60)}`);
    history.replaceState(null, '', location.pathname);
  } catch {
    // There is none.
  }
}
