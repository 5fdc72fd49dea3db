/*
 * pppd plugin: PPP over a kernel PPTP socket (AF_PPPOX, PX_PROTO_PPTP) that is connected already and inherited as
 * descriptor N ("kpptp_fd N"). The data then never leaves the kernel: pptp.ko, ppp_generic, ppp_mppe.
 */
#include <stdint.h>
#include <string.h>
#include <unistd.h>
#include <pppd/pppd.h>
#include <pppd/fsm.h>
#include <pppd/lcp.h>

char pppd_version[] = VERSION;

enum { MTU_MAX = 1400 };

static int kpptp_fd = -1;

static option_t options[] = {
	{ "kpptp_fd", o_int, &kpptp_fd, "connected kernel PPTP socket" },
	{ NULL },
};

static int channel_connect(void)
{
	strlcpy(ppp_devnam, "kpptp", 6);
	return kpptp_fd;
}

static void channel_disconnect(void)
{
	if (kpptp_fd >= 0)
		close(kpptp_fd);
	kpptp_fd = -1;
}

static void channel_send_config(int mtu, uint32_t accm, int pcomp, int accomp)
{
	netif_set_mtu(0, mtu < MTU_MAX ? mtu : MTU_MAX);
}

static void channel_recv_config(int mru, uint32_t accm, int pcomp, int accomp)
{
}

static struct channel kpptp_channel = {
	.options = options,
	.connect = channel_connect,
	.disconnect = channel_disconnect,
	.establish_ppp = generic_establish_ppp,
	.disestablish_ppp = generic_disestablish_ppp,
	.send_config = channel_send_config,
	.recv_config = channel_recv_config,
};

void plugin_init(void)
{
	add_options(options);
	the_channel = &kpptp_channel;
	modem = 0;
	/* The kernel's channel neither escapes nor compresses headers. */
	lcp_wantoptions[0].neg_asyncmap = 0;
	lcp_allowoptions[0].neg_asyncmap = 0;
	lcp_wantoptions[0].neg_pcompression = 0;
	lcp_wantoptions[0].neg_accompression = 0;
}
