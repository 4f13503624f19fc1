// SPDX-License-Identifier: MIT
/**
 * A client for browsers that reconnects, resumes by `seq`, and repeats publishes without an
 * acknowledgement. It does the same as the Python package `wsserver.client`; docs/clients.md says
 * how to use both.
 *
 *     import { Client } from "./wsclient.js";
 *
 *     const client = new Client("wss://ws.example.org/ws", { tokenFactory });
 *     await client.connect();
 *     await client.join("lobby", { onMessage: (message) => console.log(message.user, message.data) });
 *     await client.publish("lobby", { text: "hello" });
 *
 * Without dependencies. Names that begin with `_` are for this file only.
 */

const OPEN_MS = 10_000;
// After a connection that lived this long, the waits start again from the shortest.
const STABLE_MS = 5_000;

const FIRST_WAIT_MS = 1_000;
const LONGEST_WAIT_MS = 20_000;

// A browser sends the token as a subprotocol, which can have these characters.
const TOKEN = /^[!#$%&'*+\-.^_`|~0-9A-Za-z]+$/;
// The service and its edge read lines of 8,192 bytes: a header, or the method, the path and the
// query. A browser hides their refusal of a longer line.
const LENGTH_MAX = 8_000;
// The deadline of a factory of credentials: after that the client tries again.
const ASK_MS = 30_000;
// The least wait after the refusal of a fresh credential. Clocks may differ by some seconds.
const AGAIN_MS = 2_000;
// The number of refusals in a row of fresh credentials that end the client.
const REFUSALS = 2;

const TICK_MS = 500;
// How long the server may be silent while an answer is due, before the client sends a ping.
const PROBE_OWING_MS = 3_000;
// How long the server may take to answer the ping.
const PONG_LEAST_MS = 2_000;
const PONG_MOST_MS = 10_000;

const RETRY_MS = 300;
// The server recognises a repeat for five minutes. A later repeat would be a second message.
const REPEATED_FOR_MS = 240_000;
// The codes of refusals after which the message may still have been published.
const MAYBE_PUBLISHED = new Set(["outcome_unknown", "not_archived"]);
const PASSING = new Set(["unavailable", "outcome_unknown", "broker_full", "not_archived"]);

// How often the client looks for publishes that have been in doubt for too long.
const CHECK_MS = 15_000;
// The deadline of an answer, on one connection. A server that limits the client's rate answers late.
const ANSWER_MS = 60_000;

const PAGE_MAX = 100;
const ID_LENGTH_MAX = 128;
const ROOM = /^[\x21-\x7e\u{a1}-\u{10ffff}]{1,128}$/u;
// Half of a surrogate pair, which is no text.
const HALF = /\p{Surrogate}/u;

// Close codes: those of the server, and the browser's own for a connection without a close frame.
const NOT_ALLOWED = 1008;
const BROKEN = 1006;

// Errors.

/** The client is closed: by the application, or because the server refuses it permanently. */
export class Closed extends Error {
  name = "Closed";
}

/** The server refused a command; `code` is from the table of docs/protocol.md. */
export class ServerError extends Error {
  name = "ServerError";

  constructor({ code, message }) {
    super(`${code}: ${message}`);
    this.code = code;
  }
}

/** The server refuses this client the room. */
export class JoinError extends ServerError {
  name = "JoinError";
}

/**
 * The publish failed permanently. The message may be published only if a connection broke during an
 * earlier attempt. `outcome_unknown`: no repeat within four minutes got an acknowledgement, and the
 * server recognises a later repeat no longer.
 */
export class PublishError extends ServerError {
  name = "PublishError";
}

const noAnswer = () => ({ code: "timeout", message: `no answer within ${ANSWER_MS / 1000} s` });

// Checks of arguments. They throw TypeError for what every server refuses.

function checkRoom(room) {
  if (typeof room !== "string" || !ROOM.test(room) || HALF.test(room)) {
    throw new TypeError("a room has 1 to 128 characters, without spaces or control characters");
  }
}

function checkId(id) {
  if (typeof id !== "string" || id === "" || [...id].length > ID_LENGTH_MAX || HALF.test(id)) {
    throw new TypeError(`an id is a text of 1 to ${ID_LENGTH_MAX} characters`);
  }
}

function checkLimit(limit) {
  if (!Number.isInteger(limit) || limit < 1 || limit > PAGE_MAX) {
    throw new TypeError(`limit is a whole number from 1 to ${PAGE_MAX}`);
  }
}

function checkPosition(position) {
  if (position == null) return;
  const { epoch, seq } = position;
  if (typeof epoch !== "string" || !/^[0-9]{1,15}$/.test(epoch) || !Number.isSafeInteger(seq) || seq < 0) {
    throw new TypeError("a position has the epoch and the seq of a message");
  }
}

/** The JSON of a value. Throws TypeError for what JSON cannot say. */
function toJson(data) {
  const whole = (text) => {
    if (HALF.test(text)) throw new TypeError("a text has half of a surrogate pair, such as half of an emoji");
  };
  const json = JSON.stringify(data, (key, value) => {
    whole(key);
    if (typeof value === "string") whole(value);
    return value;
  });
  if (json === undefined) throw new TypeError(`JSON cannot say ${data}`);
  return json;
}

/** Whether the same command may succeed later. */
const passes = (error) => PASSING.has(error.code) || error.retry_after_ms != null;

/**
 * The time until the next attempt: not before the server allows it, and not all clients at once.
 */
const pauseMs = (error) => (error.retry_after_ms ?? RETRY_MS) * (1 + Math.random() / 2);

/**
 * Waits between attempts: exponential and fully random, so that many clients do not reconnect at
 * once.
 */
class Backoff {
  #failures = 0;

  reset() {
    this.#failures = 0;
  }

  /** The milliseconds to wait after one more failure. */
  next() {
    const longest = Math.min(LONGEST_WAIT_MS, FIRST_WAIT_MS * 2 ** this.#failures);
    this.#failures = Math.min(this.#failures + 1, 16);
    return Math.random() * longest;
  }
}

/**
 * One of: a fixed token; a source of fresh tokens; a source of tickets, each valid for one
 * handshake.
 */
class Credentials {
  #token;
  #tokenFactory;
  #ticketFactory;
  #fresh = false; // the last handshake showed a credential from just before
  #refusals = 0;

  constructor({ token, tokenFactory, ticketFactory }) {
    if ([token, tokenFactory, ticketFactory].filter((given) => given != null).length !== 1) {
      throw new TypeError("a client needs one of token, tokenFactory and ticketFactory");
    }
    this.#token = token;
    this.#tokenFactory = tokenFactory;
    this.#ticketFactory = ticketFactory;
  }

  /** The URL and the subprotocols of the next handshake. Throws the exceptions of the factory. */
  async present(url) {
    if (this.#ticketFactory) {
      const ticket = await ask(this.#ticketFactory);
      this.#fresh = true;
      // With `bearer`, the server sends the reason for a refusal.
      return [`${url}${url.includes("?") ? "&" : "?"}ticket=${encodeURIComponent(ticket)}`, ["bearer"]];
    }
    // A token may have expired since the last handshake. A fixed token is all there is.
    const fresh = this.#token == null || !this.#tokenFactory;
    if (this.#token == null) await this.renew();
    this.#fresh = fresh;
    return [url, ["bearer", this.#token]];
  }

  /**
   * A fresh token for a connection whose token expires soon; undefined without a source of tokens.
   */
  async renew() {
    if (!this.#tokenFactory) return undefined;
    this.#token = await ask(this.#tokenFactory);
    return this.#token;
  }

  /**
   * The server accepted the credentials. If it refuses them later, they are old, and a factory may
   * have new ones.
   */
  accepted() {
    this.#fresh = false;
    this.#refusals = 0;
  }

  /**
   * The server refused the credentials; `accepted`: after it had accepted them. Returns the least
   * wait in milliseconds before the next attempt, null if the client must end. One refusal of a
   * fresh credential proves nothing: clocks differ, and handshakes may be slow.
   */
  refused(accepted) {
    if (this.#tokenFactory) this.#token = undefined;
    else if (!this.#ticketFactory && accepted) return null;
    if (!this.#fresh) return 0;
    this.#refusals += 1;
    return this.#refusals < REFUSALS ? AGAIN_MS : null;
  }
}

/** Why no request can have these, if so. The text repeats neither the token nor the ticket. */
function faultOf(url, subprotocols) {
  // The error of the browser would repeat the token.
  if (!subprotocols.every((name) => TOKEN.test(name))) {
    return "the token is empty, or has a space, a line end or another character that no token has";
  }
  const token = Math.max(...subprotocols.map((name) => String(name).length));
  if (token > LENGTH_MAX) {
    return `the token has ${token} characters, and the limit of a header is ${LENGTH_MAX}: use a ticket, or a token with fewer claims`;
  }
  if (url.length > LENGTH_MAX) return `the URL has ${url.length} characters, and the limit is ${LENGTH_MAX}`;
  return undefined;
}

/**
 * A credential of the factory. Throws its exceptions, and one if it takes too long or gives no text.
 */
async function ask(factory) {
  let deadline;
  const late = new Promise((_resolve, reject) => {
    deadline = setTimeout(() => reject(new Error(`none within ${ASK_MS / 1000} s`)), ASK_MS);
  });
  try {
    const credential = await Promise.race([factory(), late]);
    // As `(await response.json()).token` of an answer with an error.
    if (typeof credential !== "string") throw new TypeError(`the factory gave ${typeof credential}, and no text`);
    return credential;
  } finally {
    clearTimeout(deadline);
  }
}

/**
 * One connection to a server: sends commands, receives events, and has a deadline for answers,
 * since a page sees neither protocol pings nor a server that vanished.
 *
 * `owing`: whether an answer of the server is due. `receive` gets each event. `tick` is called twice
 * a second, with whether this page was paused. `ended` is called once at the end, with a reason for
 * people, and the close code if the server closed.
 */
class Link {
  heartbeatMs = PONG_MOST_MS; // until the server names its own
  #socket;
  #owing;
  #onTick;
  #ended;
  #deadline;
  #ticking;
  #heardAt;
  #askedAt = null;
  #tickedAt;
  #forgiven = false;
  #over = false;

  constructor(url, subprotocols, { owing, receive, tick, ended }) {
    this.#owing = owing;
    this.#onTick = tick;
    this.#ended = ended;
    this.#socket = new WebSocket(url, subprotocols);
    this.#deadline = setTimeout(() => this.abort("no answer"), OPEN_MS);
    this.#socket.onmessage = ({ data }) => {
      this.#heardAt = performance.now();
      let event;
      try {
        event = JSON.parse(data);
      } catch {
        this.abort("the server does not speak JSON");
        return;
      }
      receive(event);
    };
    this.#socket.onclose = ({ code, reason }) => {
      if (code === BROKEN) this.#end(this.#ticking ? "the connection broke" : "could not connect");
      else this.#end(reason ? `closed with ${code}: ${reason}` : `closed with ${code}`, code);
    };
  }

  /** The server accepted this client: from now on its answers have a deadline. */
  welcomed(heartbeatMs) {
    this.heartbeatMs = heartbeatMs;
    clearTimeout(this.#deadline);
    this.#tickedAt = performance.now();
    this.#ticking = setInterval(() => this.#tick(), TICK_MS);
  }

  send(command) {
    this.sendFrame(JSON.stringify(command));
  }

  sendFrame(frame) {
    this.#socket.send(frame);
  }

  /** Leave the connection now, and drop all that has yet to arrive. */
  abort(why) {
    this.#socket.onmessage = this.#socket.onclose = null;
    // Do not wait for the server, which may have vanished.
    this.#socket.close();
    this.#end(why);
  }

  #end(why, code) {
    if (this.#over) return;
    this.#over = true;
    clearTimeout(this.#deadline);
    clearInterval(this.#ticking);
    this.#ended(why, code);
  }

  #tick() {
    const now = performance.now();
    const late = now - this.#tickedAt > 2 * TICK_MS;
    this.#tickedAt = now;
    this.#onTick(late);
    if (this.#over) return;
    if (this.#askedAt !== null && this.#heardAt > this.#askedAt) {
      this.#askedAt = null;
      this.#forgiven = false;
    } else if (this.#askedAt !== null && late && !this.#forgiven) {
      // This page itself was paused: the answer may be here already. A hidden page is always late.
      this.#askedAt = now;
      this.#forgiven = true;
    }
    const patience = this.#owing() ? Math.min(this.heartbeatMs, PROBE_OWING_MS) : this.heartbeatMs;
    const deadline = Math.min(Math.max(this.heartbeatMs / 2, PONG_LEAST_MS), PONG_MOST_MS);
    if (this.#askedAt === null && now - this.#heardAt >= patience) {
      // A ping that measures latency has a number; for this ping, any answer will do.
      this.send({ type: "ping", t: null });
      this.#askedAt = now;
    } else if (this.#askedAt !== null && now - this.#askedAt >= deadline) {
      this.abort("the server does not answer");
    }
  }
}

const IN_DOUBT = {
  code: "outcome_unknown",
  message: "no acknowledgement for minutes; the message may be published",
};

/**
 * Publishes, from the call to the acknowledgement, over all reconnects. They go out in the order of
 * the calls. Repeats keep that order, and precede publishes not sent before. After a refusal that
 * passes, later publishes that were sent already may be accepted before the repeat. `window`: how
 * many may be unacknowledged.
 *
 * Each has `inDoubtSince`: when the first attempt that may be published was sent; `before`: the
 * same without the last attempt. These are wall-clock times: the monotonic clock of a page may stop
 * while the computer sleeps.
 */
class Publishes {
  #window;
  #underWay = new Map();
  #link = null;
  #limit = 0;
  #held;
  #checking;

  constructor(window) {
    this.#window = window;
  }

  get any() {
    return this.#underWay.size > 0;
  }

  publish(room, data, id = randomId()) {
    checkRoom(room);
    checkId(id);
    const [name, key] = [room, id].map((text) => JSON.stringify(text));
    const frame = `{"type":"publish","room":${name},"data":${toJson(data)},"id":${key}}`;
    const bytes = new TextEncoder().encode(frame).length;
    if (this.#underWay.has(id)) throw new TypeError("a publish with this id is pending");
    return new Promise((resolve, reject) => {
      const never = { inDoubtSince: Infinity, before: Infinity };
      this.#underWay.set(id, { frame, bytes, resolve, reject, sent: false, ...never });
      this.#checking ??= setInterval(() => this.#check(), CHECK_MS);
      this.#sendWaiting();
    });
  }

  /**
   * Repeat unacknowledged publishes on a new connection, which accepts frames of up to `limit`
   * bytes.
   */
  connected(link, limit) {
    this.#link = link;
    this.#limit = limit;
    for (const publish of this.#underWay.values()) publish.sent = false;
    this.#sendWaiting();
  }

  disconnected() {
    this.#link = null;
  }

  acknowledged({ id, seq }) {
    this.#take(id)?.resolve(seq);
    this.#sendWaiting();
  }

  /** Process the refusal of a publish. Returns whether it was the refusal of a publish. */
  refused(error) {
    const publish = this.#underWay.get(error.id);
    if (!publish) return false;
    if (passes(error)) {
      publish.sent = false;
      if (!MAYBE_PUBLISHED.has(error.code)) publish.inDoubtSince = publish.before;
      this.#held ??= setTimeout(() => this.#release(), pauseMs(error));
    } else {
      this.#take(error.id).reject(new PublishError(error));
      this.#sendWaiting();
    }
    return true;
  }

  /** Give up the publishes that have been in doubt for too long, also without a connection. */
  #check() {
    const now = Date.now();
    for (const [id, publish] of this.#underWay) {
      if (now - publish.inDoubtSince > REPEATED_FOR_MS) this.#take(id).reject(new PublishError(IN_DOUBT));
    }
    this.#sendWaiting();
    if (this.any) return;
    clearInterval(this.#checking);
    this.#checking = undefined;
  }

  end(why) {
    clearTimeout(this.#held);
    clearInterval(this.#checking);
    for (const id of [...this.#underWay.keys()]) this.#take(id).reject(why);
  }

  #take(id) {
    const publish = this.#underWay.get(id);
    this.#underWay.delete(id);
    return publish;
  }

  #release() {
    this.#held = undefined;
    this.#sendWaiting();
  }

  #sendWaiting() {
    if (this.#link === null || this.#held !== undefined) return;
    const now = Date.now();
    let unacknowledged = 0;
    for (const [id, publish] of this.#underWay) {
      if (unacknowledged === this.#window) return;
      if (!publish.sent) {
        const refusal = this.#refusal(publish, now);
        if (refusal) {
          this.#take(id).reject(new PublishError(refusal));
          continue;
        }
        this.#link.sendFrame(publish.frame);
        publish.sent = true;
        publish.before = publish.inDoubtSince;
        publish.inDoubtSince = Math.min(publish.inDoubtSince, now);
      }
      unacknowledged += 1;
    }
  }

  /** The error if the publish must not be sent. */
  #refusal({ bytes, inDoubtSince }, now) {
    if (now - inDoubtSince > REPEATED_FOR_MS) return IN_DOUBT;
    if (bytes > this.#limit) {
      // The server would close the connection, and every later one that gets the repeat.
      return { code: "too_big", message: `${bytes} bytes are more than the ${this.#limit} that the server takes` };
    }
    return null;
  }
}

/**
 * Requests without an answer. The server repeats the id of a request. A server of an older release
 * does not, and answers the requests about one room in the order of sending.
 */
class Requests {
  static #ANSWERS = { join: "joined", leave: "left", presence: "presence", history: "history" };
  #waiting = [];
  #serverRepeatsIds = false;

  get any() {
    return this.#waiting.length > 0;
  }

  /** Add a request as the newest, also again after a temporary refusal. */
  add(request) {
    this.#remove(request);
    this.#waiting.push(request);
  }

  /** The request that an event answers. */
  answer(event) {
    const request = this.#find(
      event.id,
      ({ room, type }) => room === event.room && Requests.#ANSWERS[type] === event.type,
    );
    if (request) {
      this.#remove(request);
      request.resolve(event);
    }
    return request;
  }

  /** The request that an error refers to. The caller sends it again, or drops it. */
  refused(error) {
    const request = this.#find(error.id, ({ room }) => room === error.room);
    if (request) request.sent = false;
    return request;
  }

  /**
   * The requests whose answer is overdue. `late`: this page was paused itself, so the answers may be
   * here already. A hidden page is always late.
   */
  overdue(late) {
    const now = performance.now();
    const found = this.#waiting.filter(({ sent, sentAt }) => sent && now - sentAt >= ANSWER_MS);
    if (!late) return found;
    const forgiven = found.filter((request) => !request.forgiven);
    for (const request of forgiven) Object.assign(request, { forgiven: true, sentAt: now });
    return found.filter((request) => !forgiven.includes(request));
  }

  #find(id, fits) {
    if (id != null) {
      const request = this.#waiting.find((each) => each.sent && each.id === id);
      this.#serverRepeatsIds ||= request !== undefined;
      return request;
    }
    return this.#serverRepeatsIds ? undefined : this.#waiting.find(({ sent, question }) => sent && fits(question));
  }

  drop(request, why) {
    this.#remove(request);
    request.reject(why);
  }

  /** Remove all requests, to be sent on a new connection. */
  takeAll() {
    this.#serverRepeatsIds = false;
    return this.#waiting.splice(0);
  }

  end(why) {
    for (const request of this.takeAll()) request.reject(why);
  }

  #remove(request) {
    this.#waiting = this.#waiting.filter((other) => other !== request);
  }
}

/** The reason of a join that the application gave up with `leave`. */
const LEFT = { code: "left", message: "the client has left the room" };

/**
 * A request, with the functions that settle its promise, if a caller waits. `joining`: the room of a
 * join. `id`: identifies the request, and its answer.
 */
function makeRequest(question, joining, resolve = null, reject = () => {}) {
  const asked = resolve !== null;
  return { id: randomId(), question, joining, asked, resolve: resolve ?? (() => {}), reject, sent: false };
}

/**
 * One room, as its member sees it: every message once and in order, or a gap.
 *
 * `position`: {epoch, seq} of the last message handed out; join with it as `since` to continue
 * there. `recovered`: whether the last join continued at the requested position.
 */
export class Room {
  recovered = false;
  _joined = false;
  #resumedAt;

  constructor(name, { since = null, members = false, onMessage = () => {} }) {
    this.name = name;
    this.members = members;
    this.position = since;
    this._onMessage = onMessage;
  }

  _question() {
    return { type: "join", room: this.name, since: this.position, members: this.members };
  }

  /** Process the answer to a join. Returns the gap or reset if messages could not be recovered. */
  _start({ epoch, seq, recovered }) {
    const before = this.position;
    this._joined = true;
    this.recovered = recovered;
    // The replay starts at the position of this room, whatever the event says.
    if (recovered && before?.epoch === epoch) return null;
    this.position = { epoch, seq };
    const room = this.name;
    if (before === null || (before.epoch === epoch && before.seq === seq)) return null;
    if (before.epoch === epoch && before.seq < seq) return { type: "gap", room, from: before.seq + 1, to: seq };
    return { type: "reset", room, epoch, seq };
  }

  /**
   * Handle a hole after `position`. Returns whether to resume: not if the client has already
   * resumed at this position.
   */
  _onHole() {
    const tried = this.#resumedAt;
    this.#resumedAt = this.position;
    return tried !== this.position;
  }

  /**
   * Skip the messages up to `last`, which will not come. Returns the gap from the current position,
   * if any.
   */
  _skip(last) {
    if (last <= this.position.seq) return null;
    const gap = { type: "gap", room: this.name, from: this.position.seq + 1, to: last };
    this.position = { epoch: this.position.epoch, seq: last };
    return gap;
  }
}

/**
 * One user's connection to the service at `url` (ws:// or wss://, with the path), over all
 * reconnects.
 *
 * Give one of: `token`, a JWT; `tokenFactory`, an (async) function that is called for the first
 * token, and when a token expires or was refused; `ticketFactory`, called for a ticket before every
 * handshake. A factory has 30 seconds; after that, an exception or no text, the client calls it
 * again. `maxUnacknowledged`: how many publishes may wait for their acknowledgement; further
 * publishes are not sent yet.
 *
 * It dispatches events whose `detail` is
 *     state   {state, reason}: every change of state and every failed attempt; the reason is for people
 *     gap     {room, from, to}: messages that will not come
 *     reset   {room, epoch, seq}: the room began a new epoch; messages in between may be missing
 *     member  {room, user, event}: a user joined or left, in a room that was joined with `members`
 *     removed {room, error}: the server refuses this client a room, or removed it from the room
 *     error   {code, message}: an error from the server that belongs to no publish or request
 *
 * `state`: "connecting", "connected", "reconnecting" or "closed". `rooms`: the joined rooms, by
 * name. `duplicates`: messages that came twice and were dropped. `holes`: messages that were
 * missing without a gap from the server, so that the client resumed. `connects`: connections so
 * far.
 */
export class Client extends EventTarget {
  state = "connecting";
  rooms = new Map();
  duplicates = 0;
  holes = 0;
  connects = 0;
  #url;
  #credentials;
  #publishes;
  #requests = new Requests();
  #pings = new Map();
  #backoff = new Backoff();
  #connection = null; // the newest one
  #link = null; // the same, once it has its `welcome`
  #renewal = null; // the command with the fresh token that was sent on it
  #dialAt = null;
  #dialling;
  #waiting = false; // before the next attempt
  #online = () => this.retryNow();
  #started = null;
  #end = null;

  constructor(url, { maxUnacknowledged = 64, ...credentials } = {}) {
    super();
    this.#url = String(url);
    this.#credentials = new Credentials(credentials);
    this.#publishes = new Publishes(maxUnacknowledged);
  }

  // Life cycle.

  /**
   * Wait for the first connection, without a timeout. Rejects with Closed if the server refuses it
   * for good: fresh credentials twice in a row.
   */
  connect() {
    if (this.#started === null) {
      this.#started = promise();
      globalThis.addEventListener?.("online", this.#online);
      if (this.#end === null) this.#dial();
      else this.#started.reject(this.#end);
    }
    return this.#started.promise;
  }

  /** Close the client. Pending publishes and requests reject with Closed. */
  close() {
    this.#finish("closed by the application");
  }

  /**
   * If the client waits before its next attempt to connect, end the wait. The client itself does so
   * when the browser is online again.
   */
  retryNow() {
    this.#backoff.reset();
    if (!this.#waiting) return;
    clearTimeout(this.#dialling);
    this.#dial();
  }

  /** Cut the connection as if the network had broken, and connect again. */
  abort(why) {
    this.#connection?.abort(why);
  }

  #finish(why) {
    if (this.#end !== null) return;
    this.#end = new Closed(why);
    this.#waiting = false;
    globalThis.removeEventListener?.("online", this.#online);
    clearTimeout(this.#dialling);
    this.#connection?.abort(why);
    this.#publishes.end(this.#end);
    this.#requests.end(this.#end);
    this.rooms.clear();
    this.#started?.reject(this.#end);
    this.#change("closed", why);
  }

  async #dial() {
    this.#waiting = false;
    const startedAt = performance.now();
    let url, subprotocols;
    try {
      [url, subprotocols] = await this.#credentials.present(this.#url);
    } catch (error) {
      this.#again(`no credentials: ${error}`);
      return;
    }
    if (this.#end !== null) return;
    const fault = faultOf(url, subprotocols);
    if (fault) {
      this.#finish(fault);
      return;
    }
    let link;
    try {
      link = new Link(url, subprotocols, {
        owing: () => this.#publishes.any || this.#requests.any,
        receive: (event) => this.#receive(link, event),
        tick: (late) => this.#dropOverdue(link, late),
        ended: (why, code) => this.#ended(startedAt, why, code),
      });
    } catch (error) {
      this.#finish(`the browser refuses to connect: ${error.message}`); // no URL, no token, or ws:// from an https:// page
      return;
    }
    this.#connection = link;
  }

  #ended(startedAt, why, code) {
    clearTimeout(this.#dialling);
    const accepted = this.#link !== null;
    this.#connection = this.#link = null;
    this.#publishes.disconnected();
    for (const { reject } of this.#pings.values()) reject(new Error("the connection ended"));
    this.#pings.clear();
    if (performance.now() - startedAt > STABLE_MS) this.#backoff.reset();
    if (code === NOT_ALLOWED) {
      const leastMs = this.#credentials.refused(accepted);
      if (leastMs === null) {
        this.#finish(why);
        return;
      }
      if (leastMs > 0) this.#dialAt = performance.now() + leastMs * (1 + Math.random());
    }
    this.#again(why);
  }

  #again(why) {
    if (this.#end !== null) return;
    // If the server named a time, keep it. Else wait, so that not all clients come at once.
    const wait = this.#dialAt === null ? this.#backoff.next() : this.#dialAt - performance.now();
    this.#dialAt = null;
    this.#dialling = setTimeout(() => this.#dial(), wait);
    this.#waiting = true;
    this.#change(this.connects ? "reconnecting" : "connecting", why);
  }

  #change(state, reason) {
    this.state = state;
    this.#tell("state", { state, reason });
  }

  #tell(type, detail) {
    this.dispatchEvent(new CustomEvent(type, { detail }));
  }

  #checkOpen() {
    if (this.#end !== null) throw this.#end;
    if (this.#started === null) throw new Error("call connect() first");
  }

  // Rooms.

  /**
   * Be a member of `room`, over every reconnect, until `leave`.
   *
   * `onMessage` gets the messages, {room, epoch, seq, user, ts, data} each: `user` published
   * `data`, `ts` is Unix time in seconds. `since`: the position to resume from; else from now.
   * `members`: whether to get member events. Rejects with JoinError and Closed, and with TypeError
   * if the client is in that room, or if an argument is not valid.
   */
  async join(room, options = {}) {
    this.#checkOpen();
    checkRoom(room);
    checkPosition(options.since);
    if (this.rooms.has(room)) throw new TypeError(`already in the room ${room}`);
    const joined = new Room(room, options);
    this.rooms.set(room, joined);
    await this.#ask(joined._question(), joined);
    return joined;
  }

  /** Leave the room. Rejects with ServerError and Closed. */
  async leave(room) {
    this.#checkOpen();
    if (this.rooms.get(room.name) !== room) return;
    this.#forget(room);
    if (this.#link !== null) await this.#ask({ type: "leave", room: room.name });
  }

  /**
   * A page of the users in a room, by name: {members: [{user, connections}], count, more}. `after`:
   * the last user of the page before. Rejects with ServerError and Closed, and with TypeError if an
   * argument is not valid.
   */
  async presence(room, { after = "", limit = PAGE_MAX } = {}) {
    this.#checkOpen();
    checkRoom(room);
    checkLimit(limit);
    if (typeof after !== "string" || HALF.test(after)) throw new TypeError("after is the name of a user");
    const { members, count, more } = await this.#ask({ type: "presence", room, after, limit });
    return { members, count, more };
  }

  /**
   * A room's newest messages, or the last before a position, or the first since one: {messages,
   * more}, oldest first. Rejects with ServerError and Closed, and with TypeError if an argument is
   * not valid.
   */
  async history(room, { before = null, since = null, limit = PAGE_MAX } = {}) {
    this.#checkOpen();
    checkRoom(room);
    checkLimit(limit);
    checkPosition(before);
    checkPosition(since);
    const { messages, more } = await this.#ask({ type: "history", room, before, since, limit });
    return { messages: messages.map(({ from, ...message }) => ({ room, ...message, user: from })), more };
  }

  /**
   * The round trip to the server's program in milliseconds. Rejects with Closed, or Error without a
   * connection, if the connection ends, and without an answer.
   */
  async ping() {
    this.#checkOpen();
    if (this.#link === null) throw new Error("not connected");
    const id = randomId();
    const answered = promise();
    const startedAt = performance.now();
    this.#pings.set(id, answered);
    this.#link.send({ type: "ping", t: id });
    const deadline = setTimeout(() => answered.reject(new Error(noAnswer().message)), ANSWER_MS);
    try {
      await answered.promise;
    } finally {
      clearTimeout(deadline);
      this.#pings.delete(id);
    }
    return performance.now() - startedAt;
  }

  #ask(question, joining) {
    return new Promise((resolve, reject) => this.#sendRequest(makeRequest(question, joining, resolve, reject)));
  }

  #sendRequest(request) {
    this.#requests.add(request);
    request.sent = this.#link !== null;
    Object.assign(request, { sentAt: performance.now(), forgiven: false });
    this.#link?.send({ ...request.question, id: request.id });
  }

  /** Give up the requests that the server has not answered in time. */
  #dropOverdue(link, late) {
    for (const request of this.#requests.overdue(late)) {
      const { question, joining, asked } = request;
      const room = this.rooms.get(question.room);
      if (joining === undefined) {
        this.#requests.drop(request, new ServerError(noAnswer()));
      } else if (asked) {
        this.#requests.drop(request, new JoinError(noAnswer()));
        if (room === joining) this.#forget(room);
        // A leave would end a later join.
        if (!this.rooms.has(question.room)) this.#sendRequest(makeRequest({ type: "leave", room: question.room }));
      } else if (room === joining) {
        link.abort("no answer to a join");
        return;
      } else {
        this.#requests.drop(request, null);
      }
    }
  }

  #forget(room) {
    if (this.rooms.get(room.name) === room) this.rooms.delete(room.name);
    room._joined = false;
  }

  // Publishing.

  /**
   * Publish to a room, over all reconnects, and resolve to the `seq` of the message.
   *
   * `data`: any JSON value. `id`: the server recognises a repeat by this id, random by default.
   * Publishes go out in the order of the calls. Rejects with PublishError and Closed, and with
   * TypeError for no JSON, a text with half of a surrogate pair, an id that is pending, and a room or
   * an id that is not valid.
   */
  async publish(room, data, { id } = {}) {
    this.#checkOpen();
    return this.#publishes.publish(room, data, id);
  }

  // Events.

  #receive(link, event) {
    switch (event.type) {
      case "welcome":
        return this.#welcomed(link, event);
      case "message":
        return this.#deliver(link, event);
      case "ack":
        return this.#publishes.acknowledged(event);
      case "joined":
        return this.#joined(event);
      case "gap":
        return this.#gap(link, event);
      case "reset":
        return this.#reset(event);
      case "member":
        return this.#tell("member", { room: event.room, user: event.user, event: event.event });
      case "left":
      case "presence":
      case "history":
        return this.#requests.answer(event);
      case "error":
        return this.#refused(link, event);
      case "pong":
        return this.#pong(event);
      case "expiring":
        return this.#renew(link);
      case "reconnect":
        return this.#reconnect(link, event);
      default: // from a later version of the protocol
    }
  }

  #welcomed(link, { heartbeat_s, max_message_bytes }) {
    link.welcomed(heartbeat_s * 1000);
    this.#link = link;
    this.connects += 1;
    this.#credentials.accepted();
    const asked = this.#requests.takeAll();
    for (const room of this.rooms.values()) {
      room._joined = false;
      const request = asked.find(({ joining }) => joining === room) ?? makeRequest(null, room);
      request.question = room._question();
      this.#sendRequest(request);
    }
    for (const request of asked) {
      const { joining, question } = request;
      if (question.type === "leave") request.resolve(); // the connection ended, and left its rooms
      else if (question.type !== "join") this.#sendRequest(request);
      else if (this.rooms.get(question.room) !== joining) request.reject(new JoinError(LEFT));
    }
    this.#renewal = null;
    this.#publishes.connected(link, max_message_bytes);
    this.#started.resolve();
    this.#change("connected", "");
  }

  #joined(event) {
    const request = this.#requests.answer(event);
    const room = this.rooms.get(event.room);
    // The answer to a join that was given up says nothing about the position of a later join.
    if (!room || request?.joining !== room) return;
    const missed = room._start(event);
    if (missed) this.#lost(missed);
  }

  #lost({ type, ...detail }) {
    this.#tell(type, detail);
  }

  #refused(link, error) {
    const { id, code, message } = error;
    if (id != null && this.#publishes.refused(error)) return;
    if (id != null && id === this.#renewal?.id) {
      if (passes(error)) setTimeout(() => this.#renewAgain(link, id), pauseMs(error));
      else this.#tell("error", { code, message });
      return;
    }
    const request = this.#requests.refused(error);
    const room = this.rooms.get(request ? request.question.room : error.room);
    if (!request) {
      if (id != null) return; // the call was given up
      if (room) this.#expelled(room, error); // a fresh token may allow fewer rooms
      else if (error.room == null) this.#tell("error", { code, message });
    } else if (request.question.type !== "join") {
      this.#requests.drop(request, new ServerError(error));
    } else if (room && request.joining === room && passes(error)) {
      setTimeout(() => {
        if (this.#link !== link) return;
        if (this.rooms.get(room.name) === room) this.#sendRequest(request);
        else this.#requests.drop(request, new JoinError(LEFT));
      }, pauseMs(error));
    } else {
      this.#requests.drop(request, new JoinError(error));
      if (room && request.joining === room) this.#expelled(room, error);
    }
  }

  #expelled(room, error) {
    this.#forget(room);
    this.#tell("removed", { room, error: new JoinError(error) });
  }

  #member(name) {
    const room = this.rooms.get(name);
    return room?._joined ? room : null;
  }

  #deliver(link, { room: name, seq, from: user, ts, data, ...event }) {
    const room = this.#member(name);
    if (room === null) return;
    const epoch = event.epoch ?? room.position.epoch; // earlier releases of the service do not send it
    const other = epoch !== room.position.epoch;
    if (!other && seq <= room.position.seq) {
      this.duplicates += 1;
      return;
    }
    if ((other || seq > room.position.seq + 1) && !this.#passedHole(link, room, seq, epoch)) return;
    room.position = { epoch, seq };
    try {
      room._onMessage({ room: name, epoch, seq, user, ts, data });
    } catch (error) {
      reportError(error); // an error of the application must not end the connection
    }
  }

  #gap(link, { room: name, from, to }) {
    const room = this.#member(name);
    if (room === null) return;
    if (from > room.position.seq + 1 && !this.#passedHole(link, room, from)) return;
    const gap = room._skip(to);
    if (gap !== null) this.#lost(gap);
  }

  /**
   * Messages before `seq` are missing, or the `reset` to this epoch: resume. If that did not bring
   * them, report a gap or reset and continue.
   */
  #passedHole(link, room, seq, epoch = room.position.epoch) {
    this.holes += 1;
    if (room._onHole()) {
      link.abort(`messages are missing before ${seq} in ${room.name}`);
      return false;
    }
    if (epoch === room.position.epoch) this.#lost(room._skip(seq - 1));
    else this.#reset({ room: room.name, epoch, seq: seq - 1 });
    return true;
  }

  #reset({ room: name, epoch, seq }) {
    const room = this.#member(name);
    if (room === null) return;
    room.position = { epoch, seq };
    this.#lost({ type: "reset", room: name, epoch, seq });
  }

  #pong({ t: id }) {
    this.#pings.get(id)?.resolve();
    this.#pings.delete(id);
  }

  async #renew(link) {
    let token;
    try {
      token = await this.#credentials.renew();
    } catch {
      return; // the server closes the connection, and the next connection tries again
    }
    if (token === undefined || this.#link !== link) return;
    this.#renewal = { type: "auth", token, id: randomId() };
    link.send(this.#renewal);
  }

  /** The server could not check the fresh token: try again. */
  #renewAgain(link, id) {
    if (this.#link === link && this.#renewal?.id === id) link.send(this.#renewal);
  }

  /** Use the old connection until it is time to connect again. */
  #reconnect(link, { after_ms, reason }) {
    clearTimeout(this.#dialling);
    this.#dialAt = performance.now() + after_ms;
    this.#dialling = setTimeout(() => link.abort(reason), after_ms);
  }
}

function promise() {
  const parts = {};
  parts.promise = new Promise((resolve, reject) => Object.assign(parts, { resolve, reject }));
  parts.promise.catch(() => {}); // a promise without a waiting caller must not count as an unhandled rejection
  return parts;
}

/** crypto.randomUUID exists only in pages over https. */
function randomId() {
  return Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join("");
}
