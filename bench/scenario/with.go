package scenario

// With returns the load as it is over another protocol. What the file says of the one before, such as its path, goes with that.
func (l Load) With(p Protocol) Load {
	if l.Protocol == p {
		return l
	}
	l.Protocol, l.Path, l.Method, l.BodyBytes, l.Messages, l.Interval = p, "", "", 0, 0, 0
	if l.http() {
		l.Method = methodFor(0)
	}
	if p == WebSocket {
		l.BodyBytes = defaultMessage
	}
	if l.countsMessages() {
		l.Messages = defaultMessages
	}
	return l
}
