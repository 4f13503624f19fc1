// SPDX-License-Identifier: GPL-3.0-or-later
// Copyright: the selfhost.websocket authors
//
// Rooms with socket.io as its documentation builds them: the Redis adapter, a token checked in a middleware.
import { createHmac, timingSafeEqual } from "node:crypto";
import { createServer } from "node:http";
import { createAdapter } from "@socket.io/redis-adapter";
import { createClient } from "redis";
import { Server } from "socket.io";

const { PORT, REDIS_SOCKET, JWT_SECRET, HEARTBEAT_MS } = process.env;

function userOf(token) {
  const [header, claims, signature] = token.split(".");
  const expected = createHmac("sha256", JWT_SECRET).update(`${header}.${claims}`).digest();
  if (!timingSafeEqual(expected, Buffer.from(signature, "base64url"))) throw new Error("bad signature");
  const { sub, exp } = JSON.parse(Buffer.from(claims, "base64url"));
  if (exp * 1000 < Date.now()) throw new Error("expired");
  return sub;
}

const publisher = createClient({ socket: { path: REDIS_SOCKET } });
const subscriber = publisher.duplicate();
await Promise.all([publisher.connect(), subscriber.connect()]);

const http = createServer();
const io = new Server(http, {
  transports: ["websocket"],
  adapter: createAdapter(publisher, subscriber),
  pingInterval: Number(HEARTBEAT_MS),
});
// As the documentation advises, to save memory.
io.engine.on("connection", (socket) => {
  socket.request = null;
});
io.use((socket, next) => {
  try {
    socket.data.user = userOf(socket.handshake.auth.token);
    next();
  } catch (error) {
    next(error);
  }
});
io.on("connection", (socket) => {
  socket.on("join", (room, done) => {
    socket.join(room);
    done();
  });
  socket.on("publish", (room, data) => io.to(room).emit("message", { room, from: socket.data.user, data }));
});
http.listen({ port: Number(PORT), host: "127.0.0.1", backlog: 65535 });
