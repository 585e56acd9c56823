package probe

import (
	_ "github.com/HdrHistogram/hdrhistogram-go"
	_ "github.com/valyala/fasthttp"
	_ "golang.org/x/sys/unix"
	_ "golang.org/x/time/rate"
)
